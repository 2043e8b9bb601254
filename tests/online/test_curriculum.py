"""A curriculum advances by mean accuracy over a window, never goes back, and survives a restart."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.notes import DlmError
from dlm_trl.online.curriculum import Curriculum

STAGES = [SimpleNamespace(name=f"stage {k}") for k in range(3)]


def accuracy(value: float) -> dict[str, float]:
    return {"accuracy": value, "chance": 0.2}


def test_the_next_stage_begins_when_a_whole_window_reaches_the_threshold():
    curriculum = Curriculum(STAGES, threshold=0.75, window=2)
    assert [curriculum.observe(accuracy(a)) for a in (1.0, 0.25, 1.0)] == [False] * 3
    assert curriculum.task is STAGES[0]
    assert curriculum.observe(accuracy(0.5))  # mean of the last two: 0.75
    assert curriculum.task is STAGES[1]
    # The new stage starts with an empty window.
    assert [curriculum.observe(accuracy(1.0)) for _ in range(2)] == [False, True]


def test_the_last_stage_never_ends():
    curriculum = Curriculum(STAGES, window=1)
    assert [curriculum.observe(accuracy(1.0)) for _ in range(5)] == [True, True, False, False, False]
    assert curriculum.task is STAGES[2]


def test_a_step_without_rows_does_not_count():
    curriculum = Curriculum(STAGES, window=2)
    assert [curriculum.observe(m) for m in (accuracy(1.0), {}, accuracy(1.0))] == [False, False, True]


@given(
    values=st.lists(st.sampled_from([0.2, 0.5, 0.7, 0.9, 1.0]), max_size=30),
    at=st.integers(0, 30),
    window=st.integers(1, 4),
)
@settings(deadline=None)
def test_a_restart_changes_nothing(values: list[float], at: int, window: int):
    through = Curriculum(STAGES, threshold=0.7, window=window)
    stages = []
    for value in values:
        through.observe(accuracy(value))
        stages.append(through.stage)
    before = Curriculum(STAGES, threshold=0.7, window=window)
    for value in values[:at]:
        before.observe(accuracy(value))
    after = Curriculum(STAGES, threshold=0.7, window=window)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    resumed = []
    for value in values[at:]:
        after.observe(accuracy(value))
        resumed.append(after.stage)
    assert resumed == stages[at:]
    assert stages == sorted(stages)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stages": []}, "no stages"),
        ({"stages": STAGES, "threshold": 0.0}, "threshold is 0.0"),
        ({"stages": STAGES, "threshold": 90}, "threshold is 90"),
        ({"stages": STAGES, "window": 0}, "window is 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict, words: str):
    with pytest.raises(DlmError, match=words):
        Curriculum(**arguments)


def test_a_checkpoint_with_more_stages_is_refused():
    with pytest.raises(DlmError, match=r"at stage 3, but the curriculum has 2"):
        Curriculum(STAGES[:2]).load_state_dict({"stage": 2, "recent": []})
