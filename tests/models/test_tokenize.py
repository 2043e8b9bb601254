"""The decoded loss covers the right text, prose is trained once, and `preflight` reports problems."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.models.tokenize import IGNORED, pad_token, preflight, tokenize, windows
from dlm_trl.notes import DlmError
from dlm_trl.rows.load import load_dlm
from tests.rows.conftest import TEXT, Write, make_tokenizer

SYSTEM = "system_prompt: Be brief.\n"
letters = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"])
words = st.text(letters, min_size=1, max_size=40)
QUICK = settings(max_examples=40, deadline=None)


def pairs(*texts: tuple[str, str]) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]}
            for q, a in texts
        ]
    )


def trained(row: dict[str, Any]) -> list[int]:
    return [label for label in row["labels"] if label != IGNORED]


def config(tokenizer: Any, **changes: Any) -> Any:
    """The part of a model's configuration that `preflight` reads."""
    values = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **changes}
    return SimpleNamespace(get_text_config=lambda: SimpleNamespace(**values))


@QUICK
@given(texts=st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_the_loss_is_on_the_answer_and_its_end_of_turn(chat_tokenizer: Any, texts: list[tuple[str, str]]) -> None:
    tokens, report = tokenize(pairs(*texts), chat_tokenizer, max_length=10_000)
    for row, (question, answer) in zip(tokens, texts, strict=True):
        assert chat_tokenizer.decode(trained(row)) == f"{answer}<|im_end|>\n"
        assert chat_tokenizer.decode(row["input_ids"]).startswith(f"<|im_start|>user\n{question}<|im_end|>\n")
        cut = len(row["labels"]) - len(trained(row))
        assert row["labels"][cut:] == row["input_ids"][cut:] and row["length"] == len(row["input_ids"])
    assert report.sequences == len(texts) and report.tokens == sum(tokens["length"])
    assert report.trained_tokens == sum(len(trained(row)) for row in tokens)


def test_messages_give_the_same_sequences(write: Write, chat_tokenizer: Any) -> None:
    path = write(extra=SYSTEM)
    sft, _ = tokenize(load_dlm(path, split="train"), chat_tokenizer, 512)
    messages, _ = tokenize(load_dlm(path, "messages", split="train"), chat_tokenizer, 512)
    assert list(sft) == list(messages)
    assert "Be brief." in chat_tokenizer.decode(sft[0]["input_ids"])


def test_an_end_token_that_a_text_spells_is_text_also_if_it_pads() -> None:
    tokenizer = make_tokenizer(["<|end|>"], bos_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'Q: ' + m.content + '\nA:' if m.role == 'user' else ' ' + m.content + eos_token }}"
        "{% endfor %}"
    )
    tokens, _ = tokenize(pairs(("Is <|end|> one?", "Yes, <|end|> is.")), tokenizer, 512)
    assert tokenizer.decode(trained(tokens[0])) == " Yes, <|end|> is.<|end|>"
    assert trained(tokens[0])[-1] == tokenizer.eos_token_id, "the real one is in the loss"
    assert tokens[0]["input_ids"].count(tokenizer.eos_token_id) == 1
    prose, _ = tokenize(Dataset.from_dict({"text": ["A text ends with <|end|>."]}), tokenizer, 512)
    assert tokenizer.decode(trained(prose[0])) == "A text ends with <|end|>.<|end|>"
    assert [i for i, token in enumerate(prose[0]["input_ids"]) if token == 0] == [0, len(prose[0]["input_ids"]) - 1]


@QUICK
@given(ids=st.lists(st.integers(0, 9), min_size=2, max_size=50), length=st.integers(2, 60))
def test_windows_predict_every_token_once(ids: list[int], length: int) -> None:
    pieces = list(windows(ids, length))
    assert [token for piece in pieces for token in piece[1:]] == ids[1:]
    assert all(2 <= len(piece) <= length for piece in pieces)
    assert all(after[0] == before[-1] for before, after in pairwise(pieces))


@QUICK
@given(text=st.text(st.characters(codec="utf-8"), max_size=200), length=st.integers(2, 70))
def test_prose_and_eos_are_in_the_loss_once(gpt2_tokenizer: Any, text: str, length: int) -> None:
    tokens, report = tokenize(Dataset.from_dict({"text": [text]}), gpt2_tokenizer, length)
    assert gpt2_tokenizer.decode([t for row in tokens for t in trained(row)]) == text + "<|endoftext|>"
    assert max(tokens["length"]) <= length and not report.too_long
    assert all(row["labels"][0] == IGNORED for row in tokens), "nothing stands before the first token of a window"


def test_prose_begins_with_bos_if_there_is_one(chat_tokenizer: Any) -> None:
    tokens, _ = tokenize(Dataset.from_dict({"text": ["A heron."]}), chat_tokenizer, 64)
    assert chat_tokenizer.decode(tokens[0]["input_ids"]) == "<|endoftext|>A heron.<|im_end|>"


def test_a_pair_that_is_too_long_is_dropped_and_reported(write: Write, chat_tokenizer: Any) -> None:
    path = write(body=f"::instruction::\n### Q\nShort?\n### A\nYes.\n### Q\nLong?\n### A\n{TEXT}\n")
    rows = load_dlm(path, split="train")
    whole, _ = tokenize(rows, chat_tokenizer, 10_000)
    tokens, report = tokenize(rows, chat_tokenizer, whole[1]["length"] - 1)
    assert list(tokens) == [whole[0]] and report.rows == 2
    assert report.too_long == (f"{path}:{rows[1]['line']} ({whole[1]['length']} tokens)",)
    assert report.too_long[0] in str(report)
    tokens, report = tokenize(rows, chat_tokenizer, whole[1]["length"])
    assert list(tokens) == list(whole) and not report.too_long


def test_no_tokens_in_the_loss_is_an_error(chat_tokenizer: Any) -> None:
    with pytest.raises(DlmError, match=r"No tokens are left in the loss.*row 0 \(\d+ tokens\).*max_length is 4"):
        tokenize(pairs(("q", "a")), chat_tokenizer, 4)


def test_conversations_need_a_template_and_prose_does_not(gpt2_tokenizer: Any) -> None:
    with pytest.raises(DlmError, match="chat_template_path"):
        tokenize(pairs(("q", "a")), gpt2_tokenizer, 64)
    prose = Dataset.from_dict({"text": ["A heron."]})
    assert preflight(gpt2_tokenizer, config(gpt2_tokenizer), prose) == []
    assert any("chat_template_path" in p for p in preflight(gpt2_tokenizer, config(gpt2_tokenizer), pairs(("q", "a"))))


TEMPLATES = {
    "changes the prompt": (
        "{% for m in messages %}{{ m.content if not loop.last else m.content | upper }}{% endfor %}<|im_end|>",
        "row 0: .*renders the prompt differently",
    ),
    "thinks only in the generation prompt": (
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|><think>{% endif %}",
        "renders the prompt differently.*think",
    ),
    "does not end the turn": (
        "{% for m in messages %}\n{{ m.content }}{% endfor %}",
        "No end of turn.*im_end.*row 0",
    ),
    "leaves the answer out": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        "No token is in the loss for row 0",
    ),
    "refuses": ("{{ raise_exception('System role not supported') }}", "refuses.*System role not supported"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_preflight_reports_a_bad_template(chat_tokenizer: Any, name: str) -> None:
    template, pattern = TEMPLATES[name]
    tokenizer = make_tokenizer(["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.chat_template = template
    (problem,) = preflight(tokenizer, config(tokenizer), pairs(("q", "a")))
    assert re.search(pattern, problem)
    assert preflight(chat_tokenizer, config(chat_tokenizer), pairs(("q", "a"))) == []


def test_preflight_reports_another_models_tokenizer(chat_tokenizer: Any) -> None:
    (problem,) = preflight(chat_tokenizer, config(chat_tokenizer, vocab_size=100), pairs(("q", "a")))
    assert "token ids up to" in problem and "vocabulary has 100" in problem


def test_a_turn_may_end_with_any_eos_token(chat_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(["<|eot|>", "<|end|>"], eos_token="<|end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|eot|>{% endfor %}"
    several = config(tokenizer, eos_token_id=[tokenizer.convert_tokens_to_ids("<|eot|>"), tokenizer.eos_token_id])
    assert preflight(tokenizer, several, pairs(("q", "a"))) == []
    assert preflight(tokenizer, config(tokenizer), pairs(("q", "a")))


def test_rows_with_other_columns_are_refused(write: Write, chat_tokenizer: Any) -> None:
    rows = load_dlm(write(), "preference", split="train")
    with pytest.raises(DlmError, match="prompt and completion, or messages, or text"):
        tokenize(rows, chat_tokenizer, 64)


def test_padding_uses_the_pad_token_then_a_spare_one_then_eos(chat_tokenizer: Any, gpt2_tokenizer: Any) -> None:
    assert pad_token(chat_tokenizer) == ("<|pad|>", None)
    token, note = pad_token(make_tokenizer(["<|end|>", "<|reserved_0|>"], eos_token="<|end|>"))
    assert token == "<|reserved_0|>" and note and "spare" in note
    token, note = pad_token(gpt2_tokenizer)
    assert token == "<|endoftext|>" and note and "by position" in note and gpt2_tokenizer.pad_token is None
    with pytest.raises(DlmError, match="no pad, spare or EOS token"):
        pad_token(make_tokenizer(["<|x|>"]))


def test_same_ids_and_labels_as_the_stock_trainer(write: Write, chat_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = load_dlm(write(extra=SYSTEM), split="train")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(chat_tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    settings = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, max_length=512, shuffle_dataset=False, report_to="none"
    )
    ours, _ = tokenize(rows, chat_tokenizer, 512)
    stock = SFTTrainer(model, args=settings, train_dataset=rows, processing_class=chat_tokenizer)
    fed = SFTTrainer(model, args=settings, train_dataset=ours, processing_class=chat_tokenizer)
    assert list(fed.train_dataset["input_ids"]) == list(ours["input_ids"]), "the trainer leaves our rows as they are"
    for column in ("input_ids", "labels"):
        assert list(stock.train_dataset[column]) == list(ours[column])
    expected, actual = (t.data_collator([dict(row) for row in t.train_dataset]) for t in (stock, fed))
    assert expected.keys() == actual.keys() == {"input_ids", "labels", "attention_mask"}
    assert all((expected[name] == actual[name]).all() for name in expected)
    assert (actual["labels"][actual["attention_mask"] == 0] == IGNORED).all()
