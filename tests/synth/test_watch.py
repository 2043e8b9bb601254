"""Progress output without a terminal."""

import pytest

from dlm_trl.synth import watch
from dlm_trl.teachers.protocol import Reply, Usage


@pytest.mark.parametrize(("seconds", "left"), [(1.0, 9), (900.0, 900)])
def test_the_time_left_is_computed_from_the_replies_not_the_batches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: float, left: int
) -> None:
    shown = watch.Watch()
    now = shown._started + 100
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    shown(Reply("k", '{"question": "q", "answer": "a"}', Usage(30, 10), seconds), 9)
    assert capsys.readouterr().err == f"1 of 10 requests, 0.0 pairs/s, 40 tokens, {left} s left\n"
