"""What a run shows while it lasts: lines without a terminal, and the screen of a terminal."""

from io import StringIO
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes.terminal import console
from dlm_trl.synth import watch
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.report import Counts, Loss, Stage, Synthesis
from dlm_trl.teachers.protocol import Reply, Usage

REPLY = Reply("k", '{"question": "q", "answer": "a"}', Usage(30, 10), 1.0)


class Clock:
    """The time that a Watch reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def outcome() -> Synthesis:
    return Synthesis(Path("notes.dlm"), "t", "j")


def screen(shown: watch.Watch, width: int = 80) -> list[str]:
    out = console(width=width)
    out.file = StringIO()
    out.print(shown._shown())
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


@pytest.mark.parametrize(("seconds", "left"), [(1.0, 9), (900.0, 900)])
def test_the_time_left_is_computed_from_the_replies_not_the_batches(
    capsys: pytest.CaptureFixture[str], clock: Clock, outcome: Synthesis, seconds: float, left: int
) -> None:
    shown = watch.Watch()
    shown.started(outcome)
    clock.now += 100
    shown.replied(Reply("k", "", Usage(30, 10), seconds), 9)
    assert capsys.readouterr().err == f"notes.dlm: 1 of 10 requests, 0.0/s, 40 tokens, {left} s left\n"


def test_without_a_terminal_there_is_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], clock: Clock, outcome: Synthesis
) -> None:
    with watch.Watch() as shown:
        shown.started(outcome)
        for waiting in range(49, -1, -1):
            clock.now += 1
            shown.replied(REPLY, waiting)
        for done in range(0, 81, 8):
            clock.now += 5.5
            shown.judged(done, 80)
            outcome.counts.kept += 7
    assert capsys.readouterr().err.splitlines() == [
        "notes.dlm: 11 of 50 requests, 1.0/s, 440 tokens, 39 s left",
        "notes.dlm: 22 of 50 requests, 1.0/s, 880 tokens, 28 s left",
        "notes.dlm: 33 of 50 requests, 1.0/s, 1,320 tokens, 17 s left",
        "notes.dlm: 44 of 50 requests, 1.0/s, 1,760 tokens, 6 s left",
        "notes.dlm: 0 of 80 pairs judged, 0 kept",
        "notes.dlm: 16 of 80 pairs judged, 14 kept, 44 s left",
        "notes.dlm: 32 of 80 pairs judged, 28 kept, 33 s left",
        "notes.dlm: 48 of 80 pairs judged, 42 kept, 22 s left",
        "notes.dlm: 64 of 80 pairs judged, 56 kept, 11 s left",
        "notes.dlm: 80 of 80 pairs judged, 70 kept",
    ]


def test_a_batch_is_shown_whenever_more_of_it_is_done(
    capsys: pytest.CaptureFixture[str], clock: Clock, outcome: Synthesis
) -> None:
    with watch.Watch() as shown:
        shown.started(outcome)
        shown.asked(12)
        for done in (0, 0, 5, 5, 12):
            shown.batched("batch_1", done, 12)
        assert screen(shown)[1].endswith("0/12 batch batch_1: 12 of 12 done")
        shown.batched("batch_2", 0, 3)
    done = ["batch_1: 0 of 12", "batch_1: 5 of 12", "batch_1: 12 of 12", "batch_2: 0 of 3"]
    assert capsys.readouterr().err.splitlines() == [f"notes.dlm: batch {line} done" for line in done]


def test_a_terminal_shows_the_requests_the_funnel_and_the_latest_pairs(clock: Clock, outcome: Synthesis) -> None:
    shown = watch.Watch()
    assert screen(shown) == [""]
    shown.started(outcome)
    assert screen(shown) == ["notes.dlm"]
    shown.asked(4)
    assert "requests" in screen(shown)[1] and screen(shown)[1].endswith("0/4")
    clock.now += 2
    shown.replied(REPLY, 3)
    lines = screen(shown)
    assert lines[0] == "notes.dlm" and "requests" in lines[1] and lines[1].endswith("1/4 0.5/s, 40 tokens, 3 s left")

    outcome.counts = Counts(generated=10, guard=1, duplicate=2, judge=1, kept=2)
    long = "What is so long that it has no place in a line of eighty columns, whatever is left out of it?"
    outcome.losses.append(Loss("judge", QAPair("What?\x1b[2J\nNo.", ""), "", "margin not above 0: -0.20"))
    shown.judged(0, 7)
    clock.now += 3
    shown.judged(3, 7)
    shown.kept(QAPair(long, "a"))
    lines = screen(shown)
    assert "judging" in lines[2] and lines[2].endswith("3/7 4 s left")
    assert lines[3:] == [
        "10 pairs → guard −1 → duplicate −2 → judge −1 → 2 kept, 4 to go",
        f"kept: {long}"[:79] + "…",
        "lost: What?\\x1b[2J No. (judge: margin not above 0: -0.20)",
    ]

    shown.judged(0, 2)  # a second wave
    assert screen(shown)[2].endswith("0/2")
    shown.started(Synthesis(Path("more.dlm"), "t", None))  # the next document
    assert screen(shown) == ["more.dlm"]


@given(st.lists(st.integers(0, 99), min_size=len(get_args(Stage)) + 2, max_size=len(get_args(Stage)) + 2))
def test_the_funnel_adds_up(numbers: list[int]) -> None:
    *lost, kept, waiting = numbers
    counts = Counts(generated=sum(numbers), kept=kept, **dict(zip(get_args(Stage), lost, strict=True)))
    first, *stages, last = watch.funnel_line(counts).split(" → ")
    assert int(first.removesuffix(" pairs")) == sum(numbers)
    assert dict(stage.split(" −") for stage in stages) == {
        name: str(n) for name, n in zip(get_args(Stage), lost, strict=True) if n
    }
    assert last == f"{kept} kept" + (f", {waiting} to go" if waiting else "")
