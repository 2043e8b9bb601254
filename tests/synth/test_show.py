"""The report of a run: losses are grouped, and none is left out of the numbers."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.report import Loss, Stage
from dlm_trl.synth.show import losses


@given(
    st.lists(
        st.tuples(
            st.sampled_from(get_args(Stage)),
            st.sampled_from(["about nothing", "not in the text: eat", "not in the text: fly", "too long"]),
            st.sampled_from([f"What is {i}?" for i in range(6)]),
        ),
        max_size=200,
    )
)
def test_losses_are_grouped_by_stage_and_reason(lost: list[tuple[Stage, str, str]]) -> None:
    table = losses([Loss(stage, QAPair(question, ""), "", reason) for stage, reason, question in lost])
    rows = [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]
    groups = {(stage, reason.partition(":")[0]) for stage, reason, _ in lost}
    assert len(rows) == len(groups) and {(row[0], row[2]) for row in rows} == groups
    assert sum(int(row[1].removeprefix("×")) for row in rows) == len(lost)
    order = [(get_args(Stage).index(row[0]), -int(row[1].removeprefix("×"))) for row in rows]
    assert order == sorted(order)  # the most frequent reason of a stage first
    for name, number, kind, examples in rows:
        texts = {
            f"{q} ({r.partition(': ')[2]})" if ": " in r else q
            for s, r, q in lost
            if (s, r.partition(":")[0]) == (name, kind)
        }
        each = [line.removeprefix("· ").partition(" (×")[0] for line in examples.split("\n")]
        assert len(each) == len(set(each)) == min(3, len(texts)) and set(each) <= texts
        assert len(texts) > 3 or sum(
            int(line.partition(" (×")[2].rstrip(")") or 1) for line in examples.split("\n")
        ) == int(number.removeprefix("×"))
