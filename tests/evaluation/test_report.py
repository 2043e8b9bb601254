"""The files of a report are complete, and survive unusual runs."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dlm_trl.evaluation.advice import Missed
from dlm_trl.evaluation.numbers import Measure, Sample
from dlm_trl.evaluation.picture import draw
from dlm_trl.evaluation.report import Report, markdown, measures_table, summary, write

REPORT = Report(
    run={"document": "recipes/notes.dlm", "base": "tiny"},
    measures=[
        Measure("F1, seen", "share", 0.0, 0.9259),
        Measure("F1, held-out", "share", 0.0, None),
        Measure("perplexity on general text", "per token", 54.0, 1061.5),
    ],
    samples=[Sample("seen", "What is kneading?", "Pressing dough.", "the | the\nthe", "Pressing dough.")],
    history=[
        {"step": 1, "loss": 4.0, "learning_rate": 1e-3},
        {"step": 2, "loss": float("nan"), "learning_rate": 5e-4, "grad_norm": float("inf")},
        {"step": 2, "eval_loss": 3.5},
        {"step": 2, "train_runtime": 1.0},
    ],
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]


def test_writes_its_files_into_a_new_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "runs" / "one", REPORT)
    assert path.read_text(encoding="utf-8") == markdown(REPORT)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
        "report.png",
    ]
    with Image.open(path.parent / "report.png") as picture:
        assert picture.width > picture.height > 300
        assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 10  # something is drawn


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    write(tmp_path, REPORT)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["measures"][0] == {
        "name": "F1, seen",
        "unit": "share",
        "before": 0.0,
        "after": 0.9259,
        **dict.fromkeys(("open_book", "low", "high", "group", "questions", "note")),
    }
    assert read["run"] == dict(REPORT.run)
    assert read["history"][1] == {"step": 2, "loss": None, "learning_rate": 5e-4, "grad_norm": None}
    assert read["samples"][0]["before"] == "the | the\nthe"


def test_the_table_shows_shares_as_percent_and_a_dash_for_missing_numbers() -> None:
    rows = [cells(line) for line in measures_table(REPORT.measures).splitlines()]
    assert rows[0] == ["", "before", "after"]
    assert rows[2:] == [
        ["F1, seen (share)", "0.0%", "92.6%"],
        ["F1, held-out (share)", "0.0%", "–"],
        ["perplexity on general text (per token)", "54.000", "1,061.500"],
    ]


@given(answers=st.lists(st.text(), min_size=1, max_size=5))
def test_no_answer_breaks_the_table_of_samples(answers: list[str]) -> None:
    report = Report(run={}, measures=[], samples=[Sample("seen", "q", "a", text, text) for text in answers])
    table = markdown(report).split("## Sample answers\n\n")[1].rstrip("\n").split("\n")
    assert len(table) == 2 + len(answers)
    assert {len(cells(line)) for line in table} == {5}


def test_the_picture_has_the_curves_of_the_log_and_two_bars_for_each_share() -> None:
    loss, rate, shares = draw(REPORT.history, REPORT.measures).axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    assert list(loss.lines[1].get_xydata()[0]) == [2, 3.5]
    assert [tuple(point) for point in rate.lines[0].get_xydata()] == [(1, 1e-3), (2, 5e-4)]
    assert [bar.get_width() for bar in shares.patches] == pytest.approx([0, 0, 0.9259, 0])
    assert [text.get_text() for text in shares.texts] == ["0.0%", "0.0%", "92.6%", "–"]


OPEN = Report(
    run={},
    measures=[
        Measure("F1, seen", "share", 0.0, 1.0, open_book=0.25),
        Measure("fuzzy match, seen", "share", 0.0, 1.0, open_book=0.25),
        Measure("mcsb/5:upper/accuracy", "share", 0.25, 0.75),
        Measure("validation loss", "nats per token", 4.0, 2.0),
    ],
    samples=[Sample("seen", "q", "a", "b", "c", open_book="d"), Sample("new", "q", "a", "–", "c")],
)


def test_an_open_book_has_a_column_a_colour_and_an_explanation() -> None:
    table, explanation = measures_table(OPEN.measures).split("\n\n")
    rows = [cells(line) for line in table.splitlines()]
    assert rows[0] == ["", "before", "open book", "after"]
    assert [row[2] for row in rows[2:]] == ["25.0%", "25.0%", "–", "–"]
    assert explanation.startswith("open book: the base model before training, with the notes in its prompt")
    table = markdown(OPEN).split("## Sample answers\n\n")[1].rstrip("\n").split("\n")
    assert [cells(line)[3:] for line in table if "--" not in line] == [
        ["before", "open book", "after"],
        ["b", "d", "c"],
        ["–", "–", "c"],
    ]
    shares = draw(OPEN.history, OPEN.measures).axes[2]
    assert [label.get_text() for label in shares.get_yticklabels()] == ["F1, seen", "mcsb/5:upper/accuracy"]
    assert [text.get_text() for text in shares.texts] == ["0.0%", "25.0%", "25.0%", "100.0%", "75.0%"]
    assert len({bar.get_facecolor() for bar in shares.patches}) == 3
    edges = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in shares.patches)
    assert all(end <= start for (_, end), (start, _) in pairwise(edges)), "no bar covers another"


def test_a_run_without_a_log_or_a_share_can_be_drawn(tmp_path: Path) -> None:
    write(tmp_path, Report(run={}, measures=[Measure("loss", "nats per token", None, 1.0)]))
    assert (tmp_path / "report.png").stat().st_size > 0


def test_a_task_s_accuracy_is_drawn_with_chance_and_perplexity() -> None:
    history = [
        {"step": 0, "eval_mcsb/5:upper/accuracy": 0.2, "eval_mcsb/5:upper/ppa": 0.3, "eval_perplexity": 400.0},
        {"step": 5, "loss": 1.0, "learning_rate": 0.1, "online/accuracy": 0.6, "online/chance": 0.2},
        {"step": 10, "eval_mcsb/5:upper/accuracy": 0.9, "eval_mcsb/5:upper/ppa": 0.9, "eval_perplexity": 410.0},
    ]
    figure = draw(history, [])
    first, second = (axes for axes in figure.axes if axes.bbox.bounds == figure.axes[1].bbox.bounds)
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in first.lines}
    assert drawn == {"training rows": ([5], [0.6]), "5:upper": ([0, 10], [0.2, 0.9]), "chance": ([5], [0.2])}
    (forgotten,) = second.lines
    assert list(forgotten.get_ydata()) == [400.0, 410.0]
    assert second.get_ylim() == (0, 800), "a few per cent look like a few per cent"
    assert {text.get_text() for text in first.get_legend().get_texts()} == {*drawn, forgotten.get_label()}


@pytest.mark.parametrize("found", [(400.0, float("inf")), (float("inf"), 400.0), (float("nan"),)])
def test_a_diverged_run_of_a_task_can_be_drawn(tmp_path: Path, found: tuple[float, ...]) -> None:
    history = [
        {"step": step, "eval_mcsb/5:upper/accuracy": 0.2, "eval_perplexity": value} for step, value in enumerate(found)
    ]
    write(tmp_path, Report({}, [], history=history))
    assert (tmp_path / "report.png").stat().st_size > 0


GROUPED = [
    Measure("exact match, seen", "share", 0.0, 0.9, 0.1, group="seen", questions=40),
    Measure("exact match, reverse", "share", 0.0, 0.05, 0.1, group="reverse", questions=20),
    Measure("F1, seen", "share", 0.1, 0.95, 0.2, group="seen", questions=40),
    Measure("F1, reverse", "share", 0.1, 0.15, 0.2, group="reverse", questions=20),
    Measure("multiple choice, seen", "share", 0.5, 0.99, None, 0.9, 1.0, "seen", 40),
    Measure("inventions, traps", "share", 1.0, 0.75, 0.9, 0.5, 0.9, "traps", 16),
    Measure("share of open book", "ratio", 0.5, 1.25, None, 1.01, 1.5, note="It says how much."),
    Measure("perplexity, general text", "per token", 40.0, 44.0),
]


def test_the_summary_has_a_row_for_each_group_and_the_other_numbers_with_their_intervals() -> None:
    groups, others, notes, title, advice = summary(Report({}, GROUPED, advice=["Do this."])).split("\n\n")
    assert [cells(line) for line in groups.splitlines() if "--" not in line] == [
        ["", "questions", "F1 before", "F1 open book", "F1 after", "choice before", "choice open book", "choice after"],
        ["seen", "40", "10.0%", "20.0%", "95.0%", "50.0%", "–", "99.0%"],
        ["reverse", "20", "10.0%", "20.0%", "15.0%", "–", "–", "–"],
    ]
    assert [cells(line) for line in others.splitlines() if "--" not in line] == [
        ["", "before", "open book", "after", "95 % of after"],
        ["inventions, traps (share, lower is better)", "100.0%", "90.0%", "75.0%", "50.0% to 90.0%"],
        ["share of open book (ratio)", "50.0%", "–", "125.0%", "101.0% to 150.0%"],
        ["perplexity, general text (per token)", "40.000", "–", "44.000", "–"],
    ]
    assert [line.split(":")[0] for line in notes.splitlines()] == [
        "- F1",
        "- choice",
        "- open book",
        "- It says how much.",
    ]
    assert (title, advice) == ("## What to do next", "- Do this.")


def test_a_run_without_questions_has_one_table(tmp_path: Path) -> None:
    measures = [Measure("mcsb/5:upper/accuracy", "share", 0.2, 0.9), Measure("perplexity", "per token", 4.0, 5.0)]
    assert summary(Report({}, measures)) == measures_table(measures)
    assert "All numbers" not in markdown(Report({}, measures))
    assert "## All numbers" in markdown(Report({}, GROUPED)) and "exact match, reverse" in markdown(Report({}, GROUPED))


def test_inventions_have_bars_of_their_own_that_say_that_lower_is_better() -> None:
    _, _, shares, traps = draw([], GROUPED).axes
    assert [text.get_text() for text in shares.get_yticklabels()] == [
        "F1, seen",
        "F1, reverse",
        "multiple choice, seen",
    ]
    assert "higher is better" in shares.get_title() and "lower is better" in traps.get_title()
    assert [text.get_text() for text in traps.get_yticklabels()] == ["inventions, traps"]
    assert [bar.get_width() for bar in traps.patches] == pytest.approx([1.0, 0.9, 0.75])
    assert not any("125" in text.get_text() for text in shares.texts), "a ratio above 1 isn't a bar"
    (words,) = draw([], GROUPED).texts
    assert words.get_text() == "share of open book: 125.0% (95 %: 101.0% to 150.0%)"


def test_missed_questions_are_listed_with_their_lines_and_all_are_in_the_json(tmp_path: Path) -> None:
    every = [Missed("seen", f"q{n} | ?", "right", "wrong", 0.25, "/a/notes.dlm", n + 1) for n in range(12)]
    every.append(Missed("reverse", "where?", "there", "here", 0.0, None, None))
    report = Report({}, GROUPED, missed=every, advice=["Do this."])
    write(tmp_path, report)
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert read["advice"] == ["Do this."] and len(read["missed"]) == 13
    assert read["missed"][3] == {
        "group": "seen",
        "question": "q3 | ?",
        "answer": "right",
        "said": "wrong",
        "f1": 0.25,
        "file": "/a/notes.dlm",
        "line": 4,
    }
    intro, table = markdown(report).split("## Missed\n\n")[1].split("\n\n")[:2]
    assert "12 seen, 1 reverse" in intro and "report.json has all" in intro
    rows = [cells(line) for line in table.splitlines()]
    assert len(rows) == 2 + 10 + 1
    assert [row[-1] for row in rows[2:4]] == ["notes.dlm:1", "notes.dlm:2"] and rows[-1][-1] == "–"
