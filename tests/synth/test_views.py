"""Views of facts: the whole path with a real server; properties of the plan, the parser, the checks and the store."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dlm_trl.asking.facts import background, facts
from dlm_trl.cli.main import app as program
from dlm_trl.notes import read
from dlm_trl.notes.errors import UsageError
from dlm_trl.rows.views import live_views, read_views, remove_views
from dlm_trl.synth import SynthSettings, synthesize
from dlm_trl.synth.apply import apply, revert
from dlm_trl.synth.coverage import coverage
from dlm_trl.synth.prose_views import problem
from dlm_trl.synth.staging import applied, staged
from dlm_trl.synth.view_kinds import PAIR_KINDS, VIEW_KINDS, ViewKind, shares
from dlm_trl.synth.view_prompts import MAX_LINES, parse_views, view_messages
from dlm_trl.teachers.openai import OpenAITeacher
from tests.synth.writer import HEAD, asked
from tests.teachers.servers import Answer, App, Call

PROSE = "Alder is a tree that grows beside water. Birch turns its cut bark red within 3 days.\n"
SETTINGS = SynthSettings(teacher="openai:m", filter="dedup-only", views=10)
_KIND_OF_TASK: dict[str, ViewKind] = {
    "Write questions": "question",
    "Name what": "reverse",
    "Say the fact": "rewrite",
    "Write what follows": "implication",
    "Sum up": "summary",
}
_BEGINNINGS = {"implication": "So it follows: ", "summary": "To sum up both trees: "}
_WAYS = {
    "Alder": ("near water", "in winter", "after rain", "at noon", "on rocks"),
    "Birch": ("under snow", "by moonlight", "behind walls", "without sun", "above clouds"),
}
_SAYS = {
    "Alder": (
        "Beside water grows a tree, the alder.",
        "The alder grows as a tree beside the water there.",
        "Water is what a tree such as alder grows beside.",
        "A tree that grows beside water: alder.",
    ),
    "Birch": (
        "Cut bark of birch turns red within 3 days.",
        "Within 3 days, birch turns its bark red where cut.",
        "Red is what cut birch bark turns within 3 days.",
        "In 3 days the bark of cut birch turns red.",
    ),
}


def asked_for(call: Call) -> tuple[ViewKind, str, int]:
    """The kind, the fact or text, and the number of views in a request."""
    content = call.body["messages"][0]["content"]
    kind = next(kind for begin, kind in _KIND_OF_TASK.items() if content.startswith(begin))
    *_, fact = re.findall(r"^(?:Fact|Text): (.*)$", content, re.MULTILINE)
    return kind, fact, int(re.findall(r"Write (\d+)", content)[-1])


def views_of(kind: ViewKind, fact: str, n: int) -> list[str]:
    """What the server writes: a line or two per view, each with the fact's first word."""
    topic = fact.split()[0]
    ways = _WAYS[topic]
    if kind == "question":
        says = {"Alder": "It grows beside water", "Birch": "Its bark turns red"}[topic]
        return [f"Q: How does {topic} stand {way}?\nA: {says}." for way in ways[:n]]
    if kind == "reverse":
        return [f"A: {topic}.\nQ: What tree is it that stands {way}?" for way in ways[:n]]
    return [f"- {_BEGINNINGS.get(kind, '')}{text}" for text in _SAYS[topic][:n]]


async def write(call: Call) -> str:
    return "\n".join(views_of(*asked_for(call)))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with asked(App(reply=write), monkeypatch) as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "notes.dlm"
    file.write_text(f"{HEAD}{PROSE}", encoding="utf-8")
    return file


def counts(path: Path) -> list[Counter[str]]:
    """The views of each sentence."""
    document = read(path)
    found = coverage(document, staged(document), live_views(document, read_views(document)))
    return [sentence.views for sentence in found.sentences]


def test_from_prose_to_views_and_back(app: App, path: Path) -> None:
    original = path.read_bytes()
    done = synthesize(path, SETTINGS)
    assert [count.total() for count in counts(path)] == [10, 10], done.losses
    assert counts(path)[0] == shares(10, VIEW_KINDS)
    assert {item.kind for item in done.staged} == set(PAIR_KINDS) and len(done.staged) == 10
    assert {view.kind for view in done.stored} == {"rewrite", "implication", "summary"} and len(done.stored) == 9
    assert path.read_bytes() == original  # prose views never enter it

    sent = len(app.calls)
    assert sent == 9  # four kinds for each of two sentences, and a summary
    again = synthesize(path, SETTINGS)
    assert (len(app.calls), again.counts.sent, again.staged, again.stored) == (sent, 0, [], [])

    apply(path)
    assert [item.kind for item in applied(read(path))] == [item.kind for item in done.staged]
    assert [count.total() for count in counts(path)] == [10, 10]
    assert synthesize(path, SETTINGS).counts.sections == 0
    revert(path)
    assert path.read_bytes() == original
    assert remove_views(read(path)) == 9 and not read_views(read(path))
    assert [count.total() for count in counts(path)] == [0, 0]


def test_a_rerun_asks_only_for_what_is_missing_and_shows_what_a_teacher_wrote(app: App, path: Path) -> None:
    own = "::instruction::\n### Q\nWhere does alder grow?\n### A\nBeside water.\n"
    path.write_text(f"{HEAD}{PROSE}{own}", encoding="utf-8")
    synthesize(path, replace(SETTINGS, views=2, kinds=("question", "rewrite")))
    first = [asked_for(call) for call in app.calls]
    assert Counter((kind, n) for kind, _, n in first) == {("rewrite", 1): 2, ("question", 1): 1}  # one has its own
    app.calls.clear()
    synthesize(path, replace(SETTINGS, views=4, kinds=("question", "rewrite")))
    for call in app.calls:
        kind, fact, n = asked_for(call)
        content = call.body["messages"][0]["content"]
        assert n == 1 and "Where does alder grow?" not in content
        shown = content.rpartition("Fact: ")[2]
        if (kind, fact.split()[0]) != ("question", "Alder"):
            assert views_of(kind, fact, 1)[0].removeprefix("- ") in shown
    assert len(app.calls) == 4


def test_requests_that_failed_are_sent_again_and_no_others(app: App, path: Path) -> None:
    app.rule = lambda call: Answer(status=400) if len(app.calls) > 4 else None
    first = synthesize(path, SETTINGS, teacher=OpenAITeacher("m", max_retries=0))
    assert (first.counts.sent, first.counts.failed) == (9, 5)
    assert first.counts.kept == sum(count.total() for count in counts(path)) > 0
    app.rule = lambda call: None
    done = synthesize(path, SETTINGS)
    assert done.counts.sent == 5 and [count.total() for count in counts(path)] == [10, 10]


def test_a_request_for_unreadable_lines_is_repeated_once(app: App, path: Path) -> None:
    replies = iter(["", "- Beside water grows a tree, the alder."])

    async def stubborn(call: Call) -> str:
        return next(replies, "") if len(call.body["messages"]) in (1, 3) else ""

    app.reply = stubborn
    path.write_text(f"{HEAD}Alder is a tree that grows beside water.\n", encoding="utf-8")
    done = synthesize(path, replace(SETTINGS, views=1, kinds=("rewrite",)))
    assert [view.text for view in done.stored] == ["Beside water grows a tree, the alder."]
    assert done.counts.retried == 1


def test_the_command(app: App, path: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(program, ["synth", *words])
        assert result.exit_code == 0, result.output
        return result.output

    options = ["--teacher", "openai:m", "--filter", "dedup-only"]
    assert "9" in run("views", str(path), *options, "--dry-run")
    assert "Accepted 19 views." in run("views", str(path), *options)
    listed = run("views", str(path), "--list")
    assert "Beside water grows a tree" in listed and "9 prose views." in listed
    assert "Views of each sentence" in run("coverage", str(path))
    assert "no request was sent" in run("views", str(path), *options)
    remove_views(read(path))
    (again,) = json.loads(run("views", str(path), *options, "--json"))
    assert Counter(view["kind"] for view in again["stored"]) == {"rewrite": 6, "implication": 2, "summary": 1}
    path.write_text(f"{HEAD}{PROSE.replace('3 days', '4 days')}", encoding="utf-8")
    assert "4 prose views; 5 more aren't" in run("views", str(path), "--list")
    assert "Removed 9 prose views" in run("views", str(path), "--remove")


def test_misuse(path: Path) -> None:
    with pytest.raises(UsageError, match="Unknown kind of view 'poem'"):
        SynthSettings(views=3, kinds=("poem",))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="views"):
        SynthSettings(views=0)
    result = CliRunner().invoke(program, ["synth", "views", str(path), "--kinds", "poem", "--teacher", "openai:m"])
    assert result.exit_code == 2


@given(views=st.integers(1, 60), kinds=st.sets(st.sampled_from(VIEW_KINDS), min_size=1))
def test_shares_add_up_and_half_are_questions(views: int, kinds: set[ViewKind]) -> None:
    split = shares(views, kinds)
    assert set(split) == kinds and sum(split.values()) == views and min(split.values()) >= 0
    if kinds == set(VIEW_KINDS):
        assert abs(sum(split[kind] for kind in PAIR_KINDS) - views / 2) <= 1


LINE = st.from_regex(r"[A-Z][a-z]{2,9} [a-z ]{3,30}[a-z]\.", fullmatch=True)


@given(texts=st.lists(LINE, min_size=1, max_size=5), mark=st.sampled_from(["- ", "1. ", "* ", "", "(2) ", '"']))
def test_lines_are_read_however_they_are_listed(texts: Sequence[str], mark: str) -> None:
    reply = "\n".join(f"{mark}{text}" for text in texts)
    assert [pair.answer for pair in parse_views("rewrite", reply).pairs] == list(texts)
    assert [pair.answer for pair in parse_views("rewrite", reply, is_truncated=True).pairs] == list(texts[:-1])


@given(pairs=st.lists(st.tuples(LINE, LINE), min_size=1, max_size=4), kind=st.sampled_from(PAIR_KINDS))
def test_a_reply_in_the_form_of_the_examples_is_read(pairs: list[tuple[str, str]], kind: ViewKind) -> None:
    pairs = [(f"{question[:-1]}?", answer) for question, answer in pairs]
    labelled = [[f"Q: {question}", f"A: {answer}"] for question, answer in pairs]
    lines = [line for pair in labelled for line in (reversed(pair) if kind == "reverse" else pair)]
    assert [tuple(pair) for pair in parse_views(kind, "\n".join(lines)).pairs] == pairs


@pytest.mark.parametrize("kind", VIEW_KINDS)
def test_a_continued_reply_begins_after_the_examples_the_background_and_the_known_views(kind: ViewKind) -> None:
    written = parse_views(kind, "\n".join(views_of(kind, "Alder grows.", 1))).pairs
    messages, begin, lines = view_messages(kind, "Alder grows.", "Alder is a tree.", written, n=2)
    assert len(messages) == 1
    last = begin.rpartition("Background: Alder is a tree.")[2]
    assert re.search(r"^(?:Fact|Text): Alder grows\.$", last, re.MULTILINE)
    assert all(text in last for pair in written for text in pair)
    assert begin.endswith(lines) and lines in ("Q:", "A:", "-", "Summary:")
    examples = begin.split("\n\n")
    assert all(len(re.findall(r"^(?:Q:|-|Summary:)", e, re.MULTILINE)) <= MAX_LINES for e in examples)


def test_the_background_is_what_the_pronouns_need() -> None:
    first, second, third = facts(f"{PROSE.strip()} Birch bark is white and thin.\n")
    assert background(first) == "" and background(third) == ""
    assert background(second) == first.sentence


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("rewrite", "Alder grows where there is water.", None),
        ("rewrite", "It takes 3 days to turn the bark of birch red.", None),
        ("implication", "After three days, cut alder is red.", None),
        ("rewrite", "Alder grows where there is", "doesn't end"),
        ("rewrite", "Alder grows.", "too short"),
        ("rewrite", "It grows where there is water.", "not understood"),
        ("rewrite", "According to the text, alder grows beside water.", "not understood"),
        ("rewrite", "The bark of birch turns red within 5 days.", "number: 5"),
        ("rewrite", "The bark of birch turns red within five days.", "number: 5"),
        ("rewrite", "Where does alder grow in the wild?", "not a statement"),
        ("rewrite", "赤杨是一种生长在水边的树。", "another language"),
        ("rewrite", "Die Erle ist ein Baum, der am Wasser wächst, und ihr Holz wird rot, wenn der Mensch es schlägt "
         "und danach ein paar Tage liegen lässt.", "another language"),
        ("rewrite", f"{'Alder is an alder and an alder is alder. ' * 3}".strip(), "repeats itself"),
        ("rewrite", f"Alder grows {'and lives ' * 40}there.", "too long"),
        ("rewrite", "Alder is the favourite wood of carpenters for boats.", "not in the text: boats, carpenters"),
        ("rewrite", "The bark of a birch turns red, the bark of a tree beside water: alder.", None),
        ("implication", "Where there is an alder, there is water for a tree.", None),
        ("implication", "Alder is the favourite wood of carpenters for boats.", "not in the text: boats, carpenters"),
        ("rewrite", "Alder is a tree that grows beside water, and a tree that grows there.", "repeats itself"),
        ("summary", "Alder is a tree that grows beside water. It is red.", "copies the text"),
        ("summary", "Alder grows beside water, and cut birch turns red within 3 days.", None),
        ("summary", "Alder\x00 grows where there is water.", "control character"),
    ],
)  # fmt: skip
def test_prose_is_checked_by_its_words(kind: ViewKind, text: str, why: str | None) -> None:
    found = problem(kind, text, PROSE)
    assert found is None if why is None else found is not None and why in found


def test_copies_and_near_copies_are_rejected(app: App, path: Path) -> None:
    async def copy(call: Call) -> str:
        return "- Alder is a tree that grows beside water.\n- Alder is the tree that grows beside water."

    app.reply = copy
    done = synthesize(path, replace(SETTINGS, views=2, kinds=("rewrite",)))
    assert done.stored == [] and done.counts.duplicate == 4


def test_the_reverse_answer_is_in_the_sentence_and_not_in_the_question(app: App, path: Path) -> None:
    async def reverse(call: Call) -> str:
        pairs = (
            ("Alder", "Where does the alder grow"),
            ("Oak", "What grows beside water"),
            ("Alder", "Which tree is it"),
        )
        return "\n".join(f"A: {answer}.\nQ: {question}?" for answer, question in pairs)

    app.reply = reverse
    path.write_text(f"{HEAD}Alder is a tree that grows beside water.\n", encoding="utf-8")
    done = synthesize(path, replace(SETTINGS, views=3, kinds=("reverse",)))
    by_rule = ("What is a tree that grows beside water?", "Alder.")
    assert [tuple(item.pair) for item in done.staged] == [by_rule, ("Which tree is it?", "Alder.")]
    assert {loss.reason for loss in done.losses} == {
        "the question contains the answer",
        "not in the text: oak",
    }
