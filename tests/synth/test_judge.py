"""The judge's scores match their definition, on the embedded base and a random one; and which judges are valid."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl import tiny
from dlm_trl.asking.facts import facts
from dlm_trl.asking.words import content_words, overlap
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError, Document, parse
from dlm_trl.notes.store import next_version, set_current_adapter
from dlm_trl.synth.judge import Judge, open_judge
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.verdict import limits, verdict
from dlm_trl.teachers.load import load_teacher

ID = "01JTRX0000000000000000000A"
PROSE = "A starter is a mix of flour and water in which wild yeast and bacteria live. It needs about 9 days."
PAIRS = [
    QAPair("What is a starter?", "A mix of flour and water."),
    QAPair("How long does it need?", "About 9 days."),
    QAPair("What lives in a starter?", "Yeast {and} bacteria, wild ones, in flour and in water; nothing else."),
]


def candidate(pair: QAPair, prose: str = PROSE) -> Candidate:
    return Candidate(pair, "0" * 16, "extraction", prose, request_key="k", index=0, teacher="hf:tiny")


def document(base: str | Path = "tiny") -> Document:
    return parse(f"---\ndlm_id: {ID}\nbase_model: {base}\n---\n{PROSE}\n", Path("notes.dlm"))


@pytest.fixture(scope="module")
def tiny_judge() -> Judge:
    return Judge(load_base("tiny"), load_tokenizer("tiny"), "hf:tiny")


@cache
def random_judge(folder: str) -> Judge:
    return Judge(load_base(folder), load_tokenizer(folder), "random")


@pytest.fixture
def adapted(model: PreTrainedModel) -> PreTrainedModel:
    """An adapter that changes the model's output."""
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_alpha=128, init_lora_weights=False)
    return get_peft_model(model, config).eval()


@torch.no_grad()
def mean_log_prob(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, content: str, answer: str) -> float:
    """The definition, one row at a time: mean over the tokens after the generation prompt."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
    )
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
    table = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
    return sum(table[len(prompt) + k - 1, token].item() for k, token in enumerate(tokens)) / len(tokens)


def by_definition(judge: Judge, pair: QAPair, prose: str) -> tuple[float, float, float]:
    """Margin, grounding and novelty, all by the judge's model as it is."""

    def asked(content: str, answer: str) -> float:
        return mean_log_prob(judge.model, judge.tokenizer, content, answer)

    with_prose = f"Text:\n{prose}\n\nQuestion: {pair.question}"
    alone, read = asked(pair.question, pair.answer), asked(with_prose, pair.answer)
    empty = "I don't know."
    return read - asked(with_prose, empty), read - alone, asked(pair.question, empty) - alone


def test_the_scores_match_their_definition(tiny_judge: Judge) -> None:
    scores = tiny_judge.score([candidate(pair) for pair in PAIRS])
    for pair, found in zip(PAIRS, scores, strict=True):
        expected = by_definition(tiny_judge, pair, PROSE)
        assert (found.margin, found.grounding, found.novelty) == pytest.approx(expected, abs=1e-3)
    assert [found.overlap for found in scores] == [1.0, 1.0, 5 / 8]
    beyond = tiny_judge.score([replace(candidate(pair), strategy="expansion") for pair in PAIRS])
    assert [found.margin for found in beyond] == pytest.approx([-found.novelty for found in beyond if found.novelty])
    assert tiny_judge.score([]) == []


def test_a_prose_view_is_scored_by_what_the_prose_adds_to_it(tiny_judge: Judge) -> None:
    text = "Yeast and bacteria live in a starter."
    view = replace(candidate(QAPair("", text)), kind="rewrite", about=("A sentence.",))
    pair, (found,) = QAPair("Say something that is true.", text), tiny_judge.score([view])
    _, grounding, _ = by_definition(tiny_judge, pair, PROSE)
    assert found.grounding == pytest.approx(grounding, abs=1e-3)
    assert (found.margin, found.novelty, found.ending) == (0.0, 0.0, None)
    assert limits(view, 9.0, grounding + 0.1, 9.0).keys() == {"grounding"}
    assert verdict(found, limits(view, 9.0, grounding + 0.1)) == "grounding"
    assert verdict(found, limits(view, 9.0, grounding - 0.1)) is None


def test_an_answer_is_grounded_in_its_prose_and_not_in_another(tiny_judge: Judge) -> None:
    rows = [json.loads(line) for line in (tiny.path() / "held_out.jsonl").read_text().splitlines()[:30]]
    candidates_with_prose = [candidate(QAPair(*row["pairs"][0]), row["prose"]) for row in rows]
    with_other_prose = [
        replace(one, prose=other.prose)
        for one, other in zip(candidates_with_prose, candidates_with_prose[1:] + candidates_with_prose[:1], strict=True)
    ]

    def share_kept(candidates: list[Candidate]) -> float:
        verdicts = [verdict(s, {"grounding": 0.7}) for s in tiny_judge.score(candidates)]
        return verdicts.count(None) / len(verdicts)

    assert share_kept(candidates_with_prose) > 0.8
    assert share_kept(with_other_prose) < 0.4


def test_novelty_is_the_adapters_and_what_is_read_with_the_prose_its_bases(
    adapted: PreTrainedModel, random_base: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    base = Judge(load_base(str(random_base)), tokenizer, "base")
    judge = Judge(adapted, tokenizer, "self")
    candidates = [candidate(pair) for pair in PAIRS]
    for pair, ours, bases in zip(PAIRS, judge.score(candidates), base.score(candidates), strict=True):
        assert ours.novelty == pytest.approx(by_definition(judge, pair, PROSE)[2], abs=1e-3)
        assert ours.novelty != pytest.approx(bases.novelty, abs=1e-2)
        read = [(scores.margin, scores.grounding, scores.ending) for scores in (ours, bases)]
        assert read[0] == pytest.approx(read[1], abs=1e-3)


@pytest.mark.parametrize("prompt_end", ["Assistant:", "Assistant: ", "Assistant:\n"])
@pytest.mark.parametrize("answer_start", ["", " ", "\n"])
def test_an_answer_is_tokenised_as_in_the_chat_template(
    model: PreTrainedModel, random_base: Path, prompt_end: str, answer_start: str
) -> None:
    tokenizer = load_tokenizer(str(random_base))
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n{% else %}"
        + prompt_end
        + answer_start
        + "{{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}"
        + prompt_end
        + "{% endif %}"
    )
    judge = Judge(model, tokenizer, "base")
    (found,) = judge.score([candidate(PAIRS[0])])

    @torch.no_grad()
    def mean(content: str, answer: str) -> float:
        before = f"User: {content}\n{prompt_end}{answer_start}"
        chat = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        tokens = tokenizer(whole, return_offsets_mapping=True)
        # The answer's tokens are those that contain any of its characters.
        own = [i for i, (_, end) in enumerate(tokens["offset_mapping"]) if end > len(before)][:-1]
        table = model(torch.tensor([tokens["input_ids"]])).logits[0].log_softmax(-1)
        return sum(table[i - 1, tokens["input_ids"][i]].item() for i in own) / len(own)

    alone = mean(PAIRS[0].question, PAIRS[0].answer)
    assert found.novelty == pytest.approx(mean(PAIRS[0].question, "I don't know.") - alone, abs=1e-3)
    read = mean(f"Text:\n{PROSE}\n\nQuestion: {PAIRS[0].question}", PAIRS[0].answer)
    assert found.grounding == pytest.approx(read - alone, abs=1e-3)


def test_a_judge_whose_chat_template_rejects_a_question_fails_early(model: PreTrainedModel, random_base: Path) -> None:
    tokenizer = load_tokenizer(str(random_base))
    tokenizer.chat_template = "{{ raise_exception('A system prompt\nis needed') }}"
    with pytest.raises(DlmError, match=r"of the judge base .*: A system prompt is needed") as caught:
        Judge(model, tokenizer, "base")
    assert caught.value.kind == "ChatTemplateError"


def pieces_read(judge: Judge, asked: Candidate) -> list[str]:
    rows = [row for row, _ in judge._asked(asked).pieces]
    assert all(row.tokens <= judge.context for row in rows)
    texts = (judge.tokenizer.decode(row.prompt, clean_up_tokenization_spaces=False) for row in rows)
    return [text.partition("Text:\n")[2].rpartition("\n\nQuestion: ")[0] for text in texts]


def test_for_long_prose_the_best_piece_counts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    judge = Judge(model, tokenizer, "base")
    prose = " ".join(f"loaf{k}" for k in range(400))
    pieces = pieces_read(judge, candidate(PAIRS[0], prose))
    assert len(pieces) > 2
    whole, *alone = judge.score([candidate(PAIRS[0], text) for text in (prose, *pieces)])
    assert whole.novelty == pytest.approx(alone[0].novelty, abs=1e-3)
    assert whole.grounding == pytest.approx(max(found.grounding for found in alone), abs=1e-3)
    assert whole.overlap == 0.0


@given(st.text(max_size=30), st.integers(1, 200), st.integers(1, 200))
@settings(deadline=None, max_examples=60)
def test_prose_of_any_length_is_read_completely(random_base: Path, text: str, times: int, answer: int) -> None:
    judge = random_judge(str(random_base))
    prose = text * times
    pieces = pieces_read(judge, candidate(QAPair(PAIRS[0].question, "!\n" * answer), prose))  # two tokens a line
    if pieces:
        assert Counter("".join("".join(pieces).split())) == Counter("".join(prose.split()))
    else:
        assert answer > 150


def test_what_exceeds_the_context_is_never_given_to_the_model(
    tiny_judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, scored = [], tiny_judge._scored
    monkeypatch.setattr(tiny_judge, "_scored", lambda rows: read.extend(rows) or scored(rows))
    long = "flour and water " * 1000
    tiny_judge.score(
        [candidate(pair) for pair in (QAPair(long, "A mix."), PAIRS[0], QAPair("What is a starter?", long))]
    )
    assert read and max(row.tokens for row in read) <= tiny_judge.context


def test_pairs_too_long_for_the_context_are_rejected(tiny_judge: Judge) -> None:
    long = "flour and water " * 1000
    asked = [QAPair(long, "A mix."), PAIRS[0], QAPair("What is a starter?", long)]
    too_long, fits, too_long_too = tiny_judge.score([candidate(pair) for pair in asked])
    assert too_long == Scores(-math.inf, -math.inf, too_long.overlap)
    assert too_long_too == Scores(-math.inf, -math.inf, 1.0)
    assert math.isfinite(fits.margin)
    assert verdict(too_long, limits(candidate(asked[0]))) == "margin"


@torch.no_grad()
def test_the_ending_is_the_likelier_of_the_end_and_a_full_stop_before_it(tiny_judge: Judge) -> None:
    model, tokenizer = tiny_judge.model, tiny_judge.tokenizer
    whole, cut = QAPair("What is a starter?", "A mix of flour and water"), QAPair("What is a starter?", "A mix of")
    content = f"Text:\n{PROSE}\n\nQuestion: {whole.question}"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
    )
    expected = []
    for pair in (whole, cut):
        ways = []
        for text in (pair.answer, f"{pair.answer}."):
            answer = tokenizer(pair.answer, add_special_tokens=False)["input_ids"]
            more = tokenizer(text, add_special_tokens=False)["input_ids"][len(answer) :]
            rest = [*more, tokenizer.eos_token_id]
            table = model(torch.tensor([prompt + answer + rest])).logits[0].log_softmax(-1)
            ways.append(sum(table[len(prompt + answer) + k - 1, token].item() for k, token in enumerate(rest)))
        expected.append(max(ways))
    scores = tiny_judge.score([candidate(whole), candidate(cut)])
    assert [found.ending for found in scores] == pytest.approx(expected, abs=1e-2)
    assert expected[0] > expected[1] + 1


def test_the_default_judge_is_the_adapter_else_the_base(
    adapted: PreTrainedModel,
    random_base: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    notes = document(random_base)
    asked = [candidate(pair) for pair in PAIRS]
    before = open_judge(notes)
    assert before.name == str(random_base)
    with pytest.raises(DlmError, match=r"No adapter .* dlm-trl train notes\.dlm") as caught:
        open_judge(notes, "self")
    assert caught.value.kind == "AdapterError"

    folder = next_version(ID)
    adapted.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    set_current_adapter(ID, folder)
    expected = Judge(adapted, tokenizer, "").score(asked)
    for reference in (None, "self"):
        judge = open_judge(notes, reference)
        assert judge.name == "self"
        novelties = [found.novelty for found in judge.score(asked)]
        assert novelties == pytest.approx([found.novelty for found in expected], abs=0.05)  # bfloat16 on a GPU
        assert novelties != pytest.approx([found.novelty for found in before.score(asked)], abs=0.2)
    assert load_teacher("self", notes).model is judge.model  # not in memory twice
    assert load_teacher(f"hf:{random_base}", notes).model is before.model is not judge.model
    assert open_judge(notes, f"hf:{random_base}").name == f"hf:{random_base}"
    assert open_judge(notes, "hf:tiny").context == 1024


@pytest.mark.parametrize("reference", ["", "hf:", "hf: ", "tiny", "openai:gpt-5", "vllm-server:http://localhost"])
def test_unknown_judges_are_refused(reference: str) -> None:
    with pytest.raises(DlmError, match=r"hf:<id or folder>") as caught:
        open_judge(document(), reference)
    assert caught.value.kind == "UsageError"


def test_a_judge_that_cannot_be_loaded_is_one_line(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DlmError) as caught, monkeypatch.context() as patch:
        patch.delattr("transformers.AutoTokenizer.from_pretrained")  # the configuration is enough
        open_judge(document("hf:dlm-trl/no-such-model"))
    assert caught.value.kind == "BaseModelError"

    silent = shutil.copytree(random_base, tmp_path / "silent")
    (silent / "chat_template.jinja").unlink()
    (silent / "model.safetensors").unlink()  # refused before the weights are read
    with pytest.raises(DlmError, match="no chat template") as caught:
        open_judge(document(silent))
    assert caught.value.kind == "ChatTemplateError"


def test_content_words_of_any_script() -> None:
    assert content_words("What is THE Crème brûlée, in 9 steps?") == {"crème", "brûlée", "9", "steps"}
    assert content_words("Что такое хлеб") == {"что", "такое", "хлеб"}
    assert content_words("दिन और `Map`") == {"दिन", "और", "map"}
    assert content_words("露は夜 < 2") == {"露", "は", "夜", "2"}
    assert content_words("it is of the") == set()


def test_overlap_is_a_fraction_of_the_answer() -> None:
    assert overlap("A net of gluten", "Gluten is a net that holds the gas.") == 1.0
    assert overlap("gluten and gas and air", "Gluten holds the gas.") == pytest.approx(2 / 3)
    assert overlap("folding the loaves", "Fold the loaf.") == 0.5
    assert overlap("stone", "Gluten is a net.") == 0.0
    assert overlap("It is.", "Gluten is a net.") == 1.0


def test_the_lead_compares_a_sentence_with_those_nearby(tiny_judge: Judge) -> None:
    starter, needs = facts(PROSE)
    right, wrong = (
        replace(candidate(QAPair("What is a starter?", fact.sentence)), fact=fact) for fact in (starter, needs)
    )
    plain = candidate(QAPair("What is a starter?", starter.sentence))
    leads = [scores.lead for scores in tiny_judge.score([right, plain, wrong])]
    assert leads[1] is None and leads[0] is not None and leads[2] is not None
    assert leads[0] == pytest.approx(-leads[2], abs=1e-5)  # two sentences: what leads the one trails the other
    runners_up = [scores.runner_up for scores in tiny_judge.score([right, plain, wrong])]
    assert runners_up == [needs.sentence, None, starter.sentence]
    alone = replace(right, fact=starter._replace(nearby=(starter.sentence,)))
    (scores,) = tiny_judge.score([alone])
    assert scores.lead is not None and scores.runner_up is None
