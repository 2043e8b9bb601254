"""Which pairs pass the filters, and the reason for each loss; the judge is the embedded model."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm_trl.notes import Document, parse
from dlm_trl.rows.split import VALIDATION_FRACTION
from dlm_trl.synth.funnel import Funnel
from dlm_trl.synth.judge import Judge, open_judge
from dlm_trl.synth.leak import validation_questions
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.plan import PlannedRequest
from dlm_trl.synth.report import Synthesis
from dlm_trl.synth.settings import Filter, SynthSettings
from dlm_trl.synth.staging import Staged
from dlm_trl.teachers.protocol import Request
from tests.synth.writer import HEAD, NOUNS, TOPICS, pair, prose

ASK = PlannedRequest(Request("k", []), "0" * 16, "extraction", prose("Elm"), 9)
PAIRS = [pair(topic, noun) for topic in TOPICS for noun in NOUNS["about"]]


@pytest.fixture
def document() -> Document:
    return parse(HEAD + "".join(f"::instruction::\n### Q\n{q}\n### A\n{a}\n" for q, a in PAIRS))


def passed(
    document: Document, settings: SynthSettings, *pairs: tuple[str, str], judge: Judge | None = None
) -> Synthesis:
    """The outcome for these pairs in one reply, with `kept` set as in a run."""
    outcome = Synthesis(Path("notes.dlm"), "t", None)
    known = Staged("ab" * 8, QAPair(*pair("Yew", "height")), "t", "extraction", "", "0" * 16)
    funnel = Funnel(document, [known], settings, judge, outcome)
    outcome.counts.kept = len(funnel.take([(ASK, [QAPair(*p) for p in pairs])]))
    return outcome


def test_every_loss_has_a_stage_and_a_reason(document: Document) -> None:
    held_out = validation_questions(document, VALIDATION_FRACTION, document.frontmatter.training.seed)
    assert 0 < len(held_out) < len(PAIRS)
    shown, hidden = (next(p for p in PAIRS if (p[0] in held_out) is leaks) for leaks in (False, True))
    new = pair("Yew", "origin")
    reworded = (new[0], f"{new[1]} So they say.")
    settings = SynthSettings(filter="dedup-only")
    done = passed(document, settings, hidden, shown, pair("Yew", "height"), new, reworded, ("", "a"), ("q", "a\ud800"))
    assert [loss.stage for loss in done.losses] == ["guard", "guard", "leak", *["duplicate"] * 3]
    assert (done.counts.generated, done.counts.kept, done.counts.after_dedup) == (7, 1, 1)
    empty, damaged, leak, known, staged, twice = (loss.reason for loss in done.losses)
    assert "empty" in empty and "U+D800" in damaged and leak == f"repeats a validation row: {hidden[0]}"
    line = next(p.line for s in document.sections for p in s.pairs() if p.question == shown[0])
    assert (known, staged) == (f"the same as line {line}", "the same as staged abababab")
    assert twice == f"the same question as {new[0]!r} of this run"


def test_a_repeated_run_counts_a_pair_twice_in_a_reply_once(document: Document) -> None:
    outcome = Synthesis(Path("notes.dlm"), "t", None)
    before = Staged("ab" * 8, QAPair(*pair("Yew", "origin")), "t", "extraction", "", "0" * 16, request_key="k")
    funnel = Funnel(document, [before], SynthSettings(filter="dedup-only"), None, outcome)
    kept = funnel.take([(ASK, [before.pair, before.pair])])
    assert ([candidate.index for candidate in kept], outcome.counts.duplicate) == ([0], 1)


def test_a_wrong_answer_does_not_displace_a_right_one(document: Document) -> None:
    right = pair("Yew", "origin")
    wrong, again = (right[0], "zzxqj vvkw qqx"), (right[0], f"{right[1]} So they say.")
    settings = SynthSettings(threshold=-99, min_grounding=-99)
    done = passed(document, settings, wrong, wrong, right, again, judge=open_judge(document))
    lost = [(loss.stage, loss.pair.answer) for loss in done.losses]
    assert lost == [("duplicate", wrong[1]), ("judge", wrong[1]), ("duplicate", again[1])] and done.counts.kept == 1


def test_a_pair_rejected_for_one_prose_can_pass_for_another(document: Document) -> None:
    new = QAPair(*pair("Yew", "origin"))
    other = replace(ASK, request=Request("other", []), strategy="expansion")
    outcome = Synthesis(Path("notes.dlm"), "t", None)
    settings = SynthSettings(threshold=-99, min_grounding=50)
    funnel = Funnel(document, [], settings, open_judge(document), outcome)
    kept = funnel.take([(ASK, [new]), (other, [new]), (replace(other, request=Request("third", [])), [new])])
    assert [candidate.request_key for candidate in kept] == ["other"]
    assert [loss.stage for loss in outcome.losses] == ["grounding", "duplicate"]


@pytest.mark.parametrize("filter", ["none", "dedup-only"])
def test_surplus_pairs_do_not_count_as_duplicates(document: Document, filter: Filter) -> None:
    first, second = (QAPair(*pair("Yew", noun)) for noun in ("origin", "height"))
    outcome = Synthesis(Path("notes.dlm"), "t", None)
    funnel = Funnel(document, [], SynthSettings(filter=filter), None, outcome)
    asks = [replace(ASK, request=Request(key, []), n=1) for key in "kl"]
    kept = funnel.take([(asks[0], [first, second]), (asks[1], [second])])
    assert [(candidate.request_key, candidate.pair) for candidate in kept] == [("k", first), ("l", second)]
    assert [(loss.stage, loss.reason) for loss in outcome.losses] == [("surplus", "more pairs than requested")]


def test_many_wrong_answers_to_one_question_are_judged_at_once(
    document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, sizes = open_judge(document), []
    score = judge.score
    monkeypatch.setattr(judge, "score", lambda candidates: sizes.append(len(candidates)) or score(candidates))
    pairs = [("What is it about?", f"zzxqj {i} vvkw") for i in range(20)]
    done = passed(document, SynthSettings(threshold=50), *pairs, judge=judge)
    assert (sizes, done.counts.kept, done.counts.duplicate) == ([20], 0, 0)


def test_without_a_filter_only_unwritable_pairs_are_lost(document: Document) -> None:
    same = pair("Elm", "colour")
    done = passed(document, SynthSettings(filter="none"), same, same, ("q", ""))
    assert (done.counts.kept, done.counts.guard, len(done.losses)) == (2, 1, 1)


def test_the_judge_rejects_by_margin_threshold_and_grounding(document: Document) -> None:
    judge = open_judge(document)
    pairs = (pair("Yew", "origin"), ("What is a yew?", "a tree"), ("Who?", "zzxqj vvkw qqx"))
    low = SynthSettings(threshold=-99, min_grounding=-99)
    margins = passed(document, low, *pairs, judge=judge).counts
    assert margins.generated == 3 and 0 < margins.judge < 3 and margins.kept == 3 - margins.judge
    for settings, stage in ((replace(low, threshold=50), "threshold"), (replace(low, min_grounding=50), "grounding")):
        done = passed(document, settings, *pairs, judge=judge)
        assert (done.counts.kept, getattr(done.counts, stage)) == (0, margins.kept)
        assert ", below 50.00" in next(loss.reason for loss in done.losses if loss.stage == stage)
        assert all(loss.reason.endswith(", not above 0") for loss in done.losses if loss.stage == "judge")
        assert (done.counts.judge_passed, done.counts.above_threshold) == (
            margins.kept, margins.kept if stage == "grounding" else 0,
        )  # fmt: skip
    (loss,) = passed(document, low, ("What is a yew?", "a tree " * 1000), judge=judge).losses
    assert (loss.stage, loss.reason) == ("judge", "too long for the judge to read together with any of the prose")
