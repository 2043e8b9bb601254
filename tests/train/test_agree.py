"""What the processes of a run must have in common. tests/e2e/test_nodes.py tries it on two "machines"."""

from dataclasses import replace

from dlm_trl.train.agree import HINT, Start, difference

FIRST = Start("process 0 on a", {"torch": "2.13.0", "learning_rate": "0.001"})
SECOND = replace(FIRST, process="process 1 on b")


def test_processes_that_start_from_the_same_may_run() -> None:
    assert difference([FIRST, SECOND]) is None


def test_every_difference_is_named_with_both_processes() -> None:
    found = difference([FIRST, SECOND, replace(FIRST, process="process 2 on c", facts={"torch": "2.12.0"})])
    assert found is not None
    assert "torch is 2.13.0 in process 0 on a, and 2.12.0 in process 2 on c; " in found
    assert "learning_rate is 0.001 in process 0 on a, and None in process 2 on c. " in found
    assert found.endswith(HINT)


def test_an_error_of_all_is_shown_as_it_is_and_one_of_some_with_its_process() -> None:
    assert difference([replace(start, error="No rows.") for start in (FIRST, SECOND)]) == "No rows."
    assert difference([FIRST, replace(SECOND, error="No file.")]) == f"Only process 1 on b: No file. {HINT}"
