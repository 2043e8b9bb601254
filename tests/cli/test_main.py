"""The command line as a user calls it: exit codes, what is on stdout and what on stderr."""

import json
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dlm_trl.cli.main import app

HEAD = "---\ndlm_id: 01JTRX0000000000000000000A\ndlm_version: 15\nbase_model: tiny\n---\n"
GOOD = f"{HEAD}\nDew is water.\n::instruction::\n### Q\nWhat is dew?\n### A\nWater.\n"
BAD = f"{HEAD}\n ::prose::\n::oops::\n"


def run(*arguments: object, cwd: Path) -> Result:
    """The program in this process, which is quicker to start; `main` and `-m` have processes of their own below."""
    with chdir(cwd):
        return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "good.dlm").write_text(GOOD, encoding="utf-8")
    (tmp_path / "bad, so.dlm").write_text(BAD, encoding="utf-8")
    return tmp_path


def test_a_good_file_is_exit_0(notes: Path) -> None:
    done = run("check", "good.dlm", cwd=notes)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "0 findings in 1 file.\n")


def test_findings_are_exit_1_and_all_files_are_checked(notes: Path) -> None:
    done = run("check", "bad, so.dlm", "good.dlm", cwd=notes)
    assert (done.exit_code, done.stderr) == (1, "2 findings in 2 files.\n")
    first, *_ = lines = done.stdout.splitlines()
    assert first.startswith("bad, so.dlm:7:2: ")
    assert lines[3].startswith("bad, so.dlm:8:1: ")
    assert [line.split(":")[0] for line in lines[1:3]] == ["    why", "    fix"]


def test_json_is_one_list_of_objects(notes: Path) -> None:
    done = run("check", "--format", "json", "bad, so.dlm", "good.dlm", cwd=notes)
    assert (done.exit_code, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert [(f["path"], f["line"], f["rule"]) for f in found] == [
        ("bad, so.dlm", 7, "near-fence"),
        ("bad, so.dlm", 8, "FenceError"),
    ]
    assert set(found[0]) == {"path", "line", "column", "rule", "message", "why", "fix"}
    assert json.loads(run("check", "good.dlm", "--format", "json", cwd=notes).stdout) == []


def test_github_annotations_are_one_escaped_line_each(notes: Path) -> None:
    done = run("check", "--format", "github", "bad, so.dlm", cwd=notes)
    first, second = done.stdout.splitlines()
    assert first.startswith("::error file=bad%2C so.dlm,line=7,col=2,title=near-fence::This line looks like")
    assert second.startswith("::error file=bad%2C so.dlm,line=8,col=1,title=FenceError::")


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("check", "nothing.dlm"),
        ("check", "."),
        ("check", "--format", "xml", "good.dlm"),
        ("nonsense",),
        ("-x",),
    ],
)
def test_misuse_is_exit_2_and_no_crash(arguments: tuple[str, ...], notes: Path) -> None:
    done = run(*arguments, cwd=notes)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""


def test_an_error_of_the_house_is_one_line_and_exit_1() -> None:
    program = (
        "from dlm_trl.cli import main as cli\nfrom dlm_trl.notes import DlmError\n"
        "@cli.app.command()\ndef fail() -> None:\n"
        "    raise DlmError('It broke.', hint='Mend it.', line=3)\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program, "fail"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "line 3: It broke. Mend it.\n")


def test_the_package_runs_as_a_program(notes: Path) -> None:
    command = [sys.executable, "-m", "dlm_trl", "check", "bad, so.dlm"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=notes)
    assert (done.returncode, done.stderr) == (1, "2 findings in 1 file.\n")
    assert done.stdout == run("check", "bad, so.dlm", cwd=notes).stdout


def test_nothing_heavy_is_loaded_to_check_a_file(notes: Path) -> None:
    program = (
        "import sys\nfrom dlm_trl.cli.main import app\n"
        f"app(['check', {str(notes / 'good.dlm')!r}], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_check_shows_what_the_sources_contribute(notes: Path) -> None:
    (notes / "vault").mkdir()
    (notes / "vault" / "a.md").write_text("A note.", encoding="utf-8")
    text = GOOD.replace("base_model: tiny", "base_model: tiny\ntraining: {sources: [{path: vault}]}")
    (notes / "sourced.dlm").write_text(text, encoding="utf-8")
    done = run("check", "sourced.dlm", cwd=notes)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "7 characters become rows" in done.stderr and "1 files  *.md" in done.stderr


def test_hints_are_counted_apart_and_are_exit_0(notes: Path) -> None:
    (notes / "cards.dlm").write_text(f"{HEAD}\nQ: What is dew?\nA: Water.\n", encoding="utf-8")
    done = run("check", "cards.dlm", cwd=notes)
    assert (done.exit_code, done.stderr) == (0, "0 findings and 1 hint in 1 file.\n")
    assert "[pair-in-prose]" in done.stdout and "`::instruction::`" in done.stdout
    assert run("check", "cards.dlm", "--format", "github", cwd=notes).stdout.startswith(
        "::notice file=cards.dlm,line=7"
    )
    assert run("check", "cards.dlm", "bad, so.dlm", cwd=notes).exit_code == 1


FORK = """
import multiprocessing, time
from dlm_trl.cli import main

def wait(say):
    try:
        say()
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

def verb():
    ready = multiprocessing.get_context("fork").Event()
    worker = multiprocessing.get_context("fork").Process(target=wait, args=(ready.set,))
    worker.start()
    ready.wait()
    worker.terminate()
    worker.join()
    wait(lambda: print("worker", worker.exitcode, flush=True))

main.app = verb
main.main()
"""


def test_sigterm_cleans_up_in_the_program_and_ends_a_pools_worker_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", FORK], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "worker 143\n"
        program.terminate()
        assert program.stdout.read() == "cleaned up\n"
    assert program.returncode == 143
