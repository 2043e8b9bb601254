"""Which pairs pass the filters, and the reason for each loss; the judge is the embedded model."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm_trl.asking.facts import facts
from dlm_trl.notes import Document, parse
from dlm_trl.rows.split import VALIDATION_FRACTION
from dlm_trl.synth import funnel
from dlm_trl.synth.funnel import Funnel
from dlm_trl.synth.judge import Judge, open_judge
from dlm_trl.synth.leak import validation_questions
from dlm_trl.synth.pairs import QAPair, Scores
from dlm_trl.synth.plan import PlannedRequest
from dlm_trl.synth.progress import Progress
from dlm_trl.synth.report import Synthesis
from dlm_trl.synth.settings import Filter, SynthSettings
from dlm_trl.synth.staging import Staged
from dlm_trl.synth.verdict import MIN_ENDING, MIN_GROUNDING, MIN_OVERLAP
from dlm_trl.teachers.protocol import Request
from tests.synth.writer import HEAD, NOUNS, TOPICS, pair, prose

ABOUT_YEW = f"{pair('Yew', 'origin')[1]} A yew is a tree."
ASK = PlannedRequest(Request("k", []), "0" * 16, "extraction", f"{prose('Elm')} {ABOUT_YEW}", 9)
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
    assert (known, staged) == (f"the same as another pair: line {line}", "the same as another pair: staged abababab")
    assert twice == f"the same question as another pair: {new[0]!r} of this run"
    assert [(loss.kind, loss.detail) for loss in done.losses[2:4]] == [
        ("repeats a validation row", hidden[0]), ("the same as another pair", f"line {line}")
    ]  # fmt: skip


def test_a_repeated_run_counts_a_pair_twice_in_a_reply_once(document: Document) -> None:
    outcome = Synthesis(Path("notes.dlm"), "t", None)
    before = Staged("ab" * 8, QAPair(*pair("Yew", "origin")), "t", "extraction", "", "0" * 16, request_key="k")
    funnel = Funnel(document, [before], SynthSettings(filter="dedup-only"), None, outcome)
    kept = funnel.take([(ASK, [before.pair, before.pair])])
    assert ([candidate.index for candidate in kept], outcome.counts.duplicate) == ([0], 1)


def test_a_wrong_answer_does_not_displace_a_right_one(document: Document) -> None:
    right = pair("Yew", "origin")
    wrong, again = (right[0], "zzxqj vvkw qqx"), (right[0], f"{right[1]} It is.")
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


def test_many_wrong_answers_to_one_question_are_judged_together(
    document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, sizes = open_judge(document), []
    score = judge.score
    monkeypatch.setattr(judge, "score", lambda candidates: sizes.append(len(candidates)) or score(candidates))
    pairs = [("What is a yew about?", f"zzxqj {'q' * i} vvkw") for i in range(20)]
    done = passed(document, SynthSettings(threshold=50), *pairs, judge=judge)
    assert (sizes, done.counts.kept, done.counts.duplicate) == ([8, 8, 4], 0, 0)


class Told(Progress):
    """What a funnel tells."""

    def __init__(self, outcome: Synthesis) -> None:
        self.outcome = outcome
        self.judged_pairs: list[tuple[int, int]] = []
        self.checked: list[int] = []
        self.kept_pairs: list[QAPair] = []

    def judged(self, done: int, of: int) -> None:
        self.judged_pairs.append((done, of))
        self.checked.append(self.outcome.counts.kept + len(self.outcome.losses))

    def kept(self, pair: QAPair) -> None:
        self.kept_pairs.append(pair)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([pair(topic, noun) for topic in ("Yew", "Elm") for noun in ("origin", "height", "age")])),
    st.integers(1, 9),
)
def test_pairs_are_accepted_the_same_in_chunks_of_any_size(
    document: Document, pairs: list[tuple[str, str]], size: int
) -> None:
    judge, accepted = open_judge(document), []
    pairs = [(question, f"{answer} {i}" * (i % 3)) for i, (question, answer) in enumerate(pairs)]
    for chunk in (size, 1000):
        outcome = Synthesis(Path("notes.dlm"), "t", None)
        told = Told(outcome)
        run_settings = SynthSettings(threshold=-99, min_grounding=-99)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(funnel, "_CHUNK", chunk)
            kept = Funnel(document, [], run_settings, judge, outcome, progress=told).take(
                [(ASK, [QAPair(*p) for p in pairs])]
            )
        accepted.append([(candidate.pair, candidate.limits) for candidate in kept])
        total = told.judged_pairs[-1][1]
        assert told.judged_pairs == [(done, total) for done in [*range(0, total, chunk), total]]
        assert told.kept_pairs == [candidate.pair for candidate in kept] and outcome.counts.kept == len(kept)
        # What is judged is through the funnel: who watches sees the pairs that are still to be judged.
        assert [len(pairs) - checked for checked in told.checked] == [total - done for done, _ in told.judged_pairs]
    assert accepted[0] == accepted[1]


@pytest.mark.parametrize("certainty", [0, 1, 2])
def test_a_pair_takes_along_the_limits_that_it_passed(
    document: Document, certainty: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = open_judge(document)
    (fact,) = facts("A yew is a tree of the churchyard.")
    monkeypatch.setattr(
        judge, "score", lambda candidates: [Scores(0.2, 0.9, 1.0, 0.1 if c.fact else None) for c in candidates]
    )
    opening = ("What", "What is a yew of", "What is a yew")[certainty]
    about_fact = replace(ASK, request=Request("f", []), fact=fact, opening=opening)
    outcome = Synthesis(Path("notes.dlm"), "t", None)
    for strategy, strict in (("extraction", {"grounding": MIN_GROUNDING, "overlap": MIN_OVERLAP}), ("expansion", {})):
        built = Funnel(document, [], SynthSettings(threshold=-1), judge, outcome)
        asks = [
            (about_fact, [QAPair("What is a yew?", fact.sentence)]),
            (replace(ASK, strategy=strategy), [QAPair(*pair("Oak", "age"))]),
        ]
        limits = [candidate.limits for candidate in built.take(asks)]
        assert limits == [{"lead": (0.0, -0.1, -0.6)[certainty]}, {"margin": 0.0, "ending": MIN_ENDING, **strict}]


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
    for strict, stage in ((replace(low, threshold=50), "threshold"), (replace(low, min_grounding=50), "grounding")):
        done = passed(document, strict, *pairs, judge=judge)
        assert (done.counts.kept, getattr(done.counts, stage)) == (0, margins.kept)
        kinds = {loss.stage: loss.kind for loss in done.losses}
        wanted = {
            "threshold": "margin below 50.00",
            "grounding": "grounding below 50.00",
            "judge": "margin not above 0",
        }
        assert stage in kinds and all(wanted[name] == kind for name, kind in kinds.items())
        assert (done.counts.judge_passed, done.counts.above_threshold) == (
            margins.kept, margins.kept if stage == "grounding" else 0,
        )  # fmt: skip
    (loss,) = passed(document, low, ("What is a yew?", "a tree " * 1000), judge=judge).losses
    assert (loss.stage, loss.reason) == ("judge", "too long for the judge to read together with any of the prose")
