"""Every chat template that TRL ships: what is trained is what was written, after what a server puts before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl
from datasets import Dataset
from transformers import AutoTokenizer

from dlm_trl.models.chat import encode, encode_answered, encode_questions, set_thinking
from dlm_trl.models.tokenize import preflight
from dlm_trl.notes.errors import ChatTemplateError
from tests.rows.conftest import make_tokenizer

TEMPLATES = {file.stem: file.read_text() for file in sorted(Path(trl.__file__).parent.glob("chat_templates/*.jinja"))}
ONLY_PARTS = {name for name in TEMPLATES if name.removesuffix("_training") in ("idefics3", "llava_next", "smolvlm")}
THINKING = {name for name, template in TEMPLATES.items() if re.search(r"\benable_thinking\b", template)}
TOKEN = re.compile(r"<\|?[\w ]+\|?>|</\w+>|<｜[\w▁]+｜>|\[/?[A-Z]+\]|\[gMASK\]")
END = re.compile(r".*(end|END_OF|eot|im_end|return|turn\||user\|>|endoftext|eos).*")

QUESTION = {"role": "user", "content": "Who lives in the starter?"}
SYSTEM = {"role": "system", "content": "You are a baker."}
ANSWER = "Wild yeast, and some bacteria."


@cache
def tokenizer_of(name: str, thinking: bool = False) -> Any:
    """A byte-level tokenizer with the template and the tokens that it names."""
    template = TEMPLATES[name]
    tags = ("think", "tool", "function", "parameter")
    named = sorted({*TOKEN.findall(template), "<bos>", "<eos>"})
    tokenizer = make_tokenizer(
        [token for token in named if not any(tag in token for tag in tags)], bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.add_tokens([token for token in named if any(tag in token for tag in tags)])
    tokenizer.chat_template = template
    set_thinking(tokenizer, thinking)
    return tokenizer


def control_ids(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    return [i for i in ids if i in tokenizer.added_tokens_decoder]


def problems(tokenizer: Any, *answers: str, before: Sequence[dict[str, str]] = (QUESTION,)) -> list[str]:
    ends = [i for i, token in tokenizer.added_tokens_decoder.items() if END.match(token.content)]
    config = SimpleNamespace(vocab_size=len(tokenizer), eos_token_id=ends)
    rows = [{"prompt": list(before), "completion": [{"role": "assistant", "content": answer}]} for answer in answers]
    return preflight(tokenizer, SimpleNamespace(get_text_config=lambda: config), Dataset.from_list(rows))


@pytest.mark.parametrize(
    ("name", "thinking"),
    [(name, False) for name in TEMPLATES if name not in ONLY_PARTS] + [(name, True) for name in sorted(THINKING)],
)
def test_the_answer_is_trained_after_what_a_server_puts_before_it(name: str, thinking: bool) -> None:
    tokenizer = tokenizer_of(name, thinking)
    ids, start = encode_answered(tokenizer, [QUESTION], ANSWER)
    assert ids[:start] == encode(tokenizer, [QUESTION]), "the prompt is the generation prompt"
    assert re.search(re.escape(ANSWER) + r"\s*<\S+>\s*", tokenizer.decode(ids[start:]))
    assert problems(tokenizer, ANSWER) == []

    # Recall is measured behind whatever stands before the answer in training.
    (asked,) = encode_questions(tokenizer, [[QUESTION]], [ANSWER])
    assert asked == ids[: len(asked)] and len(asked) >= start
    assert tokenizer.decode(ids[len(asked) :]).startswith(ANSWER)

    # Neither a control token nor a tag in an answer or a question is more than its letters.
    everything = f"Say {' '.join(t.content for t in tokenizer.added_tokens_decoder.values())} or </think> twice."
    assert problems(tokenizer, everything, f"a{everything}b") == []
    assert problems(tokenizer, ANSWER, before=[{"role": "user", "content": everything}]) == []
    spelled, _ = encode_answered(tokenizer, [{"role": "user", "content": everything}], everything)
    assert control_ids(tokenizer, spelled) == control_ids(tokenizer, ids)


@pytest.mark.parametrize("name", sorted(ONLY_PARTS))
def test_a_template_that_takes_only_parts_is_refused(name: str) -> None:
    (problem,) = problems(tokenizer_of(name), ANSWER)
    assert "row 0" in problem and "list of parts" in problem and "chat_template_path" in problem


# What templates in use do with the end of the generation prompt, and what is trained after it.
BEFORE_THE_ANSWER = {
    "an open block that answers lack": ("<think>\n", "", "\n</think>\n\n"),
    "an open block that answers close at once": ("<think>\n", "<think></think>", "</think>"),
    "an open block in other tokens than the answer's": ("<think>\n", "<think>\n\n</think>\n\n", "\n</think>\n\n"),
    "an empty block that answers lack": ("<think>\n\n</think>\n\n", "", ""),
    "an empty block in other white space than the answer's": ("<think></think>", "<think>\n</think>\n", ""),
    "nothing before the block of the answer": ("", "<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"),
    "a space that belongs to the answer's first token": ("", " ", " "),
    "a space that stands alone": (" ", " ", ""),
}


@pytest.mark.parametrize("name", BEFORE_THE_ANSWER)
@pytest.mark.parametrize("tags", [True, False])
def test_the_loss_continues_the_generation_prompt(name: str, tags: bool) -> None:
    prompt, answered, trained = BEFORE_THE_ANSWER[name]
    tokenizer = make_tokenizer(["<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.add_tokens(["\n\n", " Wild", *(["<think>", "</think>"] if tags else [])])
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content.split('</think>')[-1] }}\nA:{% else %}"
        f"{answered}{{{{ m.content }}}}<|im_end|>{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )
    ids, start = encode_answered(tokenizer, [QUESTION], ANSWER)
    assert ids[:start] == encode(tokenizer, [QUESTION])
    assert tokenizer.decode(ids[start:]) == f"{trained}{ANSWER}<|im_end|>"
    (asked,) = encode_questions(tokenizer, [[QUESTION]], [ANSWER])
    assert asked == ids[: len(asked)] and tokenizer.decode(ids[len(asked) :]).strip().startswith(ANSWER)


def test_an_answer_that_the_template_changes_is_reported_with_its_place() -> None:
    tokenizer = make_tokenizer(["<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content.split('</think>')[-1] | replace('loaf', 'bun') }}<|im_end|>{% endfor %}"
    )
    (problem,) = problems(tokenizer, ANSWER, "It closes with </think> and a dot.", "A loaf.")
    assert "row 1 (' and a dot.<|im_end|>' is trained instead of 'It closes with </think> and a dot.')" in problem
    assert "row 2 ('A bun.<|im_end|>' is trained instead of 'A loaf.')" in problem and "row 0" not in problem
    (problem,) = problems(tokenizer, ANSWER, before=[{"role": "user", "content": "Whose loaf?"}])
    assert "row 0 (the prompt lacks 'Whose loaf?')" in problem
    tokenizer.add_tokens(["</think>"])
    assert problems(tokenizer, ANSWER, "It closes with </think> and a dot.") == []


def test_thinking_is_a_default_that_is_saved_with_the_template(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("qwen3")
    off = encode(tokenizer, [QUESTION])
    assert tokenizer.decode(off).endswith("<think>\n\n</think>\n\n")
    for thinking in (True, False):
        tokenizer = make_tokenizer(["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
        tokenizer.chat_template = f"\n{TEMPLATES['qwen3']}"
        set_thinking(tokenizer, not thinking)
        set_thinking(tokenizer, thinking)
        tokenizer.save_pretrained(tmp_path)
        saved = AutoTokenizer.from_pretrained(tmp_path)
        for copy in (tokenizer, saved):
            served = copy.apply_chat_template([QUESTION], add_generation_prompt=True, tokenize=False)
            assert served.endswith("assistant\n" if thinking else "<think>\n\n</think>\n\n")
            assert encode(copy, [QUESTION]) == copy(served)["input_ids"]
            unset = make_tokenizer(["<|im_start|>", "<|im_end|>"])
            unset.chat_template = f"\n{TEMPLATES['qwen3']}"
            options = {"add_generation_prompt": True, "tokenize": False, "enable_thinking": thinking}
            assert served == unset.apply_chat_template([QUESTION], **options), "nothing else changes"


def test_thinking_needs_a_template_that_knows_it() -> None:
    for template in (None, TEMPLATES["qwen2_5"]):
        tokenizer = make_tokenizer(["<|im_end|>"], eos_token="<|im_end|>")
        tokenizer.chat_template = template
        set_thinking(tokenizer, False)
        assert tokenizer.chat_template == template
        with pytest.raises(ChatTemplateError, match="enable_thinking is set, and the chat template doesn't use it"):
            set_thinking(tokenizer, True)


def test_a_template_that_changes_the_prompt_is_refused() -> None:
    tokenizer = make_tokenizer(["<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content | upper if loop.last else m.content }}<|im_end|>{% endfor %}<think>\n"
        "{% if messages | length > 9 %}</think>{% endif %}"
    )
    with pytest.raises(ChatTemplateError, match=r"a\.dlm:3: the chat template renders the prompt differently"):
        encode_answered(tokenizer, [QUESTION], ANSWER, "a.dlm:3")
