"""Documents, adapters and servers that someone else controls: their text is shown as text, and keys stay here."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from markdown_it import MarkdownIt

from dlm_trl.cli import main as cli
from dlm_trl.evaluation.advice import Missed
from dlm_trl.evaluation.numbers import Measure, Sample
from dlm_trl.evaluation.report import Report, markdown
from dlm_trl.evaluation.training_card import adapter_card
from dlm_trl.export.model_card import model_card
from dlm_trl.notes import DlmError, parse, read
from dlm_trl.notes.document import section_id
from dlm_trl.notes.store import synth_dir
from dlm_trl.online.dataset_card import card
from dlm_trl.online.rows_folder import Progress, TaskRowsSettings
from dlm_trl.synth.staging import staged
from tests.notes.test_escape import HOSTILE, dangerous
from tests.synth.writer import HEAD, asked, listed, notes
from tests.teachers.servers import Answer, App, Call

KEY = "correct-horse-battery"
Cli = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """run("check", "notes.dlm") gives what the program prints to stdout and stderr."""
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")

    def call(*words: object) -> str:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch, chdir(tmp_path):
            patch.setattr(sys, "argv", ["dlm-trl", *map(str, words)])
            with pytest.raises(SystemExit):
                cli.main()
        shown = capsys.readouterr()
        return shown.out + shown.err

    return call


def hostile_document(text: str, teacher: str, strategy: str = "extraction") -> str:
    """A document with this text wherever the format allows text; its pair is already in the file."""
    value = teacher.replace('"', "").replace("\n", "").replace("\r", "") or "x"
    keys = f'synth_teacher="{value}" synth_strategy="{strategy}" synth_at="2026-04-24T10:18:42Z"'
    source = section_id("prose", f"Prose.\n{text}")
    question = text.replace("#", "").strip() or "Why?"
    marker = f'<!-- dlm-auto-synth: {keys} source_section_id="{source}" -->'
    return f"{HEAD}Prose.\n{text}\n::instruction::\n{marker}\n### Q\n{question}\n### A\nBecause.\n"


@settings(max_examples=8)
@given(text=HOSTILE)
@example(text="\x1b]0;owned\x07\x9b2J\u202e\r[red]x[/red] [link=http://x.io]y[/link]")
def test_no_command_prints_what_a_terminal_interprets(tmp_path: Path, run: Cli, text: str) -> None:
    file = tmp_path / "notes.dlm"
    file.write_bytes(hostile_document(text, text).encode(errors="replace"))
    (tmp_path / "broken.dlm").write_bytes(f"---\n{text}: [\n---\n::{text}::\n".encode(errors="replace"))
    id_ = "0" * 16
    with suppress(DlmError):  # the commands print it, too
        # Text that opens a code block hides the pair.
        id_ = next((s.section_id for s in read(file).sections if s.kind == "instruction"), id_)
    for words in (
        *(("check", name, "--format", shape) for name in ("notes.dlm", "broken.dlm") for shape in ("text", "json")),
        ("check", "notes.dlm", "--format", "github"),
        ("synth", "list", "notes.dlm"),
        ("synth", "list", "broken.dlm"),
        ("synth", "list", "notes.dlm", "--json"),
        ("synth", "coverage", "notes.dlm"),
        ("synth", "coverage", "notes.dlm", "--json"),
        ("synth", "show", "notes.dlm", id_),
        ("synth", "instructions", "notes.dlm", "--teacher", "openai:m", "--filter", "none", "--dry-run"),
        ("evaluate", "broken.dlm"),
    ):
        assert not dangerous(run(*words)), words


def test_a_merge_of_a_hostile_adapter_prints_text(tmp_path: Path, run: Cli) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    hostile = "\x1b[2J\x9b31m[red]<img src=http://x.io>"
    (adapter / "lineage.json").write_text(json.dumps({"steps": [{"step": hostile, "base": hostile}]}))
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": hostile, "base_model_name_or_path": hostile, "r": 4, "target_modules": [hostile]})
    )
    (adapter / "adapter_model.safetensors").write_bytes(hostile.encode())
    shown = run("merge", adapter, tmp_path / "out")
    assert shown and not dangerous(shown)


ALLOWED = {"html_block", "html_inline", "link_open", "image"}


def interpreted(page: str) -> set[str]:
    """HTML, links and pictures in a page of Markdown."""
    parser = MarkdownIt("commonmark").enable("table")
    tokens = [token for block in parser.parse(page) for token in (block, *(block.children or ()))]
    return {f"{token.type} {token.attrs.get('src', '')}".strip() for token in tokens if token.type in ALLOWED}


ATTACK = "</td><img src=http://x.io> ![a](//x.io) [b](//x.io) <http://x.io>|`</script>`\n\n# Own\n\n```\n\x1b[2J"


def test_reports_and_cards_show_text_and_nothing_else(tmp_path: Path) -> None:
    page = markdown(
        Report(
            {"document": ATTACK, ATTACK: {"a": ATTACK}},
            [
                Measure(ATTACK, ATTACK, 0.0, 1.0),
                Measure(f"F1, {ATTACK}", ATTACK, 0.0, 1.0, group=ATTACK, note=ATTACK),
            ],
            [Sample(ATTACK, ATTACK, ATTACK, ATTACK, ATTACK, ATTACK)],
            rows=[(ATTACK, ATTACK)],
            missed=[Missed(ATTACK, ATTACK, ATTACK, ATTACK, 0.0, ATTACK, 1)],
            advice=[ATTACK],
        )
    )
    assert interpreted(page) == {"image report.png"} and not dangerous(page)
    (tmp_path / "config.json").write_text("{}")
    adapter = {"type": ATTACK, "rank": 4, "adapter_model.safetensors": ATTACK}
    trained = {"step": "train", "base": ATTACK, "rows": {ATTACK: 3}, "adapter": adapter, "seed": 1, "document": ATTACK}
    trained |= {"task": ATTACK, "quantization": ATTACK, "base_source": ATTACK}
    check = {"name": ATTACK, "value": 1.0, "limit": ATTACK, "passed": False, "failing": ATTACK}
    merged = {"step": "merge", "base": ATTACK, "dtype": ATTACK, "adapter": adapter, "base_revision": ATTACK}
    page = model_card(tmp_path, [trained, {"step": ATTACK}, merged | {"checks": [check]}], f"/{ATTACK}")
    body = page.split("---\n", 2)[2]
    assert interpreted(body) == set() and not dangerous(body)
    rows = TaskRowsSettings(
        *(ATTACK, [{"a": ATTACK}], 4, 4, 0, 1, 64, ATTACK, ATTACK, ATTACK, "float32", None, ATTACK, ATTACK, [ATTACK], 1)
    )
    page = card(rows, Progress(*(Counter({ATTACK: 1}) if n == "rejected" else 1 for n in Progress._fields)), None)
    assert interpreted(page.split("---\n", 2)[2]) == set() and not dangerous(page)


def test_the_card_of_an_adapter_shows_text_and_no_password() -> None:
    teacher = ATTACK + " http://me:word@host/"
    record = {
        "step": "train",
        "base": "a/<img src=x>",
        "base_source": ATTACK,
        "document": ATTACK,
        "rows": {"human": 1, "prose": 1, teacher: 3},
        "synthetic": {teacher: 3},
        "task": ATTACK,
        "written_online": {"teacher": teacher, "share": 0.5, "stages": [{"a": ATTACK}]},
        "adapter": {"type": ATTACK, "rank": 4, "alpha": ATTACK, "dropout": ATTACK},
        "quantization": ATTACK,
        "seed": 1,
        "settings": {ATTACK: ATTACK},
        "measures": [asdict(Measure(ATTACK, ATTACK, 0.0, 1.0))],
        "eval_spec": {"validation_fraction": 0.1, "split_method": ATTACK},
        "versions": {ATTACK: ATTACK},
    }
    body = adapter_card([record], f"x/{ATTACK}", ATTACK).split("\n---\n", 1)[1]
    blocks = body.split("```python\n")
    assert interpreted(blocks[0]) == set() and not dangerous(body) and "word@" not in blocks[0]


def test_a_key_that_a_server_repeats_is_kept_nowhere(
    tmp_path: Path, run: Cli, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def reply(call: Call) -> str:
        return listed([(f"What is {call.headers['authorization']} of Alder?", f"It is {KEY}, as sent.")])

    def rule(call: Call) -> Answer | None:
        told = f"Invalid header: {call.headers['authorization']} \x1b[2J"
        return Answer(status=400, body={"error": {"message": told}}) if "Birch" in call.prompt else None

    notes(tmp_path / "notes.dlm", "Alder", "Birch")
    with asked(App(reply=reply, rule=rule), monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        ask = ("--teacher", "openai:m", "--filter", "dedup-only", "--per-section", "1")
        shown = run("synth", "instructions", "notes.dlm", *ask) + run(
            "synth", "instructions", "notes.dlm", *ask, "--json"
        )
        document = read(tmp_path / "notes.dlm")
        assert staged(document) and "Invalid header" in shown
        shown += run("synth", "show", "notes.dlm", staged(document)[0].section_id)
        run("synth", "apply", "notes.dlm")
    files = [path for folder in (synth_dir(document.frontmatter.dlm_id), tmp_path) for path in folder.rglob("*")]
    kept = "".join(path.read_text() for path in files if path.is_file())
    assert "as sent" in kept and KEY not in kept
    assert KEY not in shown + caplog.text and not dangerous(shown)


@pytest.mark.parametrize(
    "teacher",
    [
        "vllm-server:http://host:8000/?key=Zx81",
        "vllm-server:http://me:Zx81@host:8000",
        "vllm-server:,http://me:Zx81@host",
        "vllm-server:me:Zx81@host:8000",
        "vllm:http://host/?Zx81",
    ],
)
def test_a_refused_server_is_named_without_its_password(teacher: str, tmp_path: Path, run: Cli) -> None:
    notes(tmp_path / "notes.dlm", "Alder")
    for words in ((), ("--dry-run",)):
        shown = run("synth", "instructions", "notes.dlm", "--teacher", teacher, "--filter", "none", *words)
        assert "host" in shown and "Zx81" not in shown


def test_a_password_in_a_documents_teacher_is_not_listed(tmp_path: Path, run: Cli) -> None:
    document = hostile_document("Why is Alder?", "vllm-server:http://me:Zx81@host#m")
    (tmp_path / "notes.dlm").write_text(document)
    shown = run("synth", "list", "notes.dlm")
    shown += run("synth", "show", "notes.dlm", parse(document).sections[-1].section_id)
    assert shown.count("http://…@host#m") == 2 and "Zx81" not in shown
