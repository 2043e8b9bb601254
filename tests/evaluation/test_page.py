"""The page has the numbers of report.json, shows text as text, loads nothing, and does without what a run lacks."""

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

from dlm_trl.evaluation.advice import Missed
from dlm_trl.evaluation.content import Report
from dlm_trl.evaluation.numbers import Measure, Sample, number
from dlm_trl.evaluation.page import STAGES, page
from dlm_trl.evaluation.report import write
from dlm_trl.notes.synth_runs import SynthRun
from dlm_trl.synth.report import Stage

VOID = {"meta", "br", "hr", "img", "input", "link"}
ATTACK = (
    "</td></dd><img src=http://x.io onerror=x()><script>alert(1)</script>{{ 7 * 7 }}\" style='x' \x1b[2J\u202e&amp;"
)
MEASURES = [
    Measure("exact match, seen", "share", 0.0, 0.9, 0.1, group="seen", questions=40),
    Measure("F1, seen", "share", 0.1234, 0.95, 0.2, group="seen", questions=40),
    Measure("F1, reverse", "share", 0.1, None, 0.2, group="reverse", questions=20),
    Measure("multiple choice, seen", "share", 0.5, 0.99, None, 0.9, 1.0, "seen", 40),
    Measure("inventions, traps", "share", 1.0, 0.75, 0.9, 0.5, 0.9, "traps", 16),
    Measure("share of open book", "ratio", 0.5, 1.25, None, 1.01, 1.5, note="It says how much."),
    Measure("perplexity, general text", "per token", 40.0, 1044.5),
]
LOST = {"question": 12, "judge": 8}
RUN = SynthRun("2026-04-24T10:18:42Z", "hf:t", "hf:j", 20, 5, 1, 0, 30, LOST, 10, 900, None, 4.0, None)
FULL = Report(
    run={"document": "a/notes.dlm", "base": "tiny", "rows": {"human": 3}},
    measures=MEASURES,
    samples=[
        Sample("seen", "What is kneading?", "Pressing dough.", "a cat", "Pressing dough.", open_book="–"),
        Sample("seen", "What is rye?", "A grain.", "a dog", "a bird"),
        Sample("seen", "What is spelt?", "A grain.", "a dog", "a fish"),
        Sample("traps", "Who ate it?", "The notes don't say.", "The cat.", "I don't know."),
    ],
    history=[{"step": 1, "loss": 4.0, "learning_rate": 1e-3}, {"step": 2, "eval_loss": float("nan")}],
    rows=[("a prompt", "a target")],
    missed=[
        Missed("seen", "What is rye?", "A grain.", "a bird", 0.5, "/a/notes.dlm", 7),
        Missed("reverse", "Which grain?", "Rye.", "", 0.0, None, None),
    ],
    advice=["Do this."],
    synthesis=[RUN],
    lineage=[{"step": "train", "base": "tiny", "seed": 1, "measures": {"F1, seen": 0.95}, "task": None}],
    settings=[("lora_r", "4", "command line"), ("seed", "42", "default")],
)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list["Element"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str = "", **attributes: str) -> list["Element"]:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        mine = [self] if tag in ("", self.tag) and wanted.items() <= self.attributes.items() else []
        return [*mine, *(found for child in self.children for found in child.all(tag, **attributes))]


class Tree(HTMLParser):
    """Reads a page whose elements are all closed, in the right order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open = [Element("", {})]
        self.feed(text)
        self.close()
        assert len(self.open) == 1, f"not closed: {[element.tag for element in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.open[-1].children.append(element := Element(tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>, line {self.getpos()[0]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.texts.append(data)


def parsed(report: Report) -> Element:
    return Tree(page(report)).open[0]


def headings(tree: Element) -> list[str]:
    return [heading.text for heading in tree.all("h2")]


def test_every_number_of_the_tables_is_in_the_json(tmp_path: Path) -> None:
    write(tmp_path, FULL)
    tree = Tree((tmp_path / "report.html").read_text(encoding="utf-8")).open[0]
    measures = {m["name"]: m for m in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["measures"]}
    rows = [row for row in tree.all("tr") if "data-measure" in row.attributes]
    assert {row.attributes["data-measure"] for row in rows} == measures.keys()
    for row in rows:
        measure = measures[str(row.attributes["data-measure"])]
        cells = {str(cell.attributes.get("data-column")): cell.text for cell in row.all("td")}
        assert {c: cells[c] for c in ("before", "open_book", "after")} == {
            c: number(measure[c], measure["unit"]) for c in ("before", "open_book", "after")
        }
    seen, reverse = ({(c.attributes.get("data-score"), c.attributes.get("data-column")): c.text for c in row.all("td")}
                     for row in tree.all("tr") if "data-group" in row.attributes)  # fmt: skip
    assert seen["F1", "before"] == "12.3%" and seen["F1", "after"] == "95.0%" and seen[None, "questions"] == "40"
    assert seen["multiple choice", "open_book"] == "–" and seen["multiple choice", "after"] == "99.0%"
    assert reverse["F1", "after"] == "–" and reverse["multiple choice", "after"] == "–"
    figures = {f.attributes["data-figure"]: f.text for f in tree.all("div") if "data-figure" in f.attributes}
    assert list(figures) == ["F1, seen", "F1, reverse", "inventions, traps", "perplexity, general text"]
    assert "1,044.500 before 40.000" in figures["perplexity, general text"]
    meters = [m.attributes for m in tree.all("i") if "style" in m.attributes]
    assert {"class": "before", "style": "width: 12.3%"} in meters
    assert "95 % of after" in page(FULL) and "101.0% to 150.0%" in page(FULL)


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    text = page(FULL)
    tree = Tree(text).open[0]
    assert "http" not in text and "//" not in re.sub(r"/\*.*?\*/", "", text)
    assert not {e.tag for e in tree.all()} & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert "@import" not in text and text.startswith("<!doctype html>")
    for element in tree.all():
        assert not [name for name in element.attributes if name.startswith("on") or name in ("src", "href")], element
    uses = {str(use.attributes["xlink:href"]).removeprefix("#") for use in tree.all("use")}
    uses |= {inner.removeprefix("#") for inner in re.findall(r"url\(([^)]*)\)", text)}  # clip paths
    ids = [str(element.attributes["id"]) for element in tree.all() if "id" in element.attributes]
    assert uses and uses <= {*ids} and len(ids) == len({*ids})
    assert headings(tree) == [
        "What to do next",
        "Before and after",
        "Curves",
        "Sample answers",
        "Missed facts",
        "What the notes don't say",
        "Rows of the last step",
        "Synthesis",
        "The run",
    ]
    assert [figure.all("svg")[0].attributes["aria-label"] for figure in tree.all("figure")] == ["Loss", "Learning rate"]


def test_text_is_shown_as_text() -> None:
    measures = [Measure(f"F1, {ATTACK}", ATTACK, 0.0, 1.0, group=ATTACK, note=ATTACK), Measure(ATTACK, "share", 0.0, 1)]
    settings = [(ATTACK, ATTACK, ATTACK), (ATTACK, ATTACK, f"default {ATTACK}")]
    report = Report(
        {"document": ATTACK, ATTACK: {ATTACK: ATTACK}, "base": ATTACK},
        measures,
        [Sample(ATTACK, ATTACK, ATTACK, ATTACK, ATTACK, ATTACK), Sample("traps", ATTACK, ATTACK, ATTACK, ATTACK)],
        [{"step": 1, "eval_mcsb/<b>x&y</b>/accuracy": 0.5}],
        [(ATTACK, ATTACK)],
        [Missed(ATTACK, ATTACK, ATTACK, ATTACK, 0.0, ATTACK, 1)],
        [ATTACK],
        [SynthRun(ATTACK, ATTACK, ATTACK, 1, 1, 1, 1, 2, {ATTACK: 1}, 1, 1, 0.5, 1.0, ATTACK)],
        [{"step": ATTACK, ATTACK: [ATTACK, {ATTACK: None}]}],
        settings,
    )
    tree, text = parsed(report), page(report)
    allowed = {element.tag for element in parsed(FULL).all()}
    assert {element.tag for element in tree.all()} <= allowed | {"tspan"}
    shown = ATTACK.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert shown in tree.all("h3")[0].text, "an entity stays an entity, a template isn't run"
    assert "49" not in tree.all("h3")[0].text and "\x1b" not in text and "\u202e" not in text
    styles = {str(e.attributes["style"]) for e in tree.all("i") if "style" in e.attributes}
    assert all(re.fullmatch(r"width: \d+\.\d%", style) for style in styles)


def test_right_and_wrong_answers_are_marked_and_both_are_shown_first() -> None:
    tree = parsed(FULL)
    articles = {article.all("h3")[0].text: article for article in tree.all("article")}
    first = [article.all("h3")[0].text for article in tree.all("div", **{"class": "samples"})[0].all("article")]
    assert first == ["What is kneading?", "What is rye?"], "the third is another wrong one"
    answers = [(d.attributes.get("class"), d.text) for d in articles["What is kneading?"].all("dd")]
    assert answers == [(None, "Pressing dough."), ("wrong", "✗ a cat"), (None, "–"), ("right", "✓ Pressing dough.")]
    assert [d.attributes.get("class") for d in articles["Who ate it?"].all("dd")] == [None, "wrong", "right"]


def test_missed_facts_have_their_lines() -> None:
    rows = [[cell.text for cell in row.all("td")] for row in parsed(FULL).all("tr") if "data-missed" in row.attributes]
    assert rows == [
        ["What is rye?", "A grain.", "a bird", "50.0%", "notes.dlm:7"],
        ["Which grain?", "Rye.", "", "0.0%", "–"],
    ]


def test_the_funnel_says_what_each_stage_left() -> None:
    (funnel,) = parsed(FULL).all("table", **{"class": "funnel"})
    rows = [[cell.text for cell in row.all("td")[:2]] for row in funnel.all("tr")]
    assert rows == [["", "30"], ["−12", "18"], ["−8", "10"], ["", "10"]]
    assert STAGES.keys() == {*get_args(Stage)}, "every stage of the funnel is explained"


@pytest.mark.parametrize(
    "report",
    [
        Report({}, []),
        Report({"task": "mcsb", "base": "tiny"}, [Measure("mcsb/5:upper/accuracy", "share", None, 0.9)]),
        Report({}, [Measure("loss", "nats per token", None, float("nan"))], history=[{"step": 1}]),
    ],
)
def test_a_run_that_lacks_parts_has_a_page_without_them(report: Report) -> None:
    tree = parsed(report)
    assert headings(tree) == ["Before and after", "The run"]
    rows = [row.attributes["data-measure"] for row in tree.all("tr") if "data-measure" in row.attributes]
    assert rows == [measure.name for measure in report.measures]
    assert "None" not in tree.text
    figures = [figure.text for figure in tree.all("div") if "data-figure" in figure.attributes]
    assert figures == (["mcsb/5:upper 90.0% before – accuracy"] if "task" in report.run else [])
