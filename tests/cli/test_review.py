"""`dlm-trl review` as a user starts and stops it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from dlm_trl.notes import read
from dlm_trl.review.serve import listen, open_browser
from dlm_trl.synth.rejected import rejected
from dlm_trl.synth.staging import staged
from tests.cli.test_main import run
from tests.review.pages import PAIRS, document


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    document(tmp_path / "notes.dlm")
    return tmp_path / "notes.dlm"


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_it_prints_the_address_and_at_ctrl_c_what_was_decided(path: Path) -> None:
    command = [sys.executable, "-m", "dlm_trl", "review", "notes.dlm", "--no-browser"]
    with subprocess.Popen(
        command, cwd=path.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout and server.stderr
        assert server.stdout.readline() == "notes.dlm: 3 staged pairs to review at\n"
        assert server.stdout.readline() == "\n"
        url = server.stdout.readline().strip()
        for decision in ("accept", "drop"):
            item = staged(read(path))[0]
            body = f'{{"version": 1, "id": "{item.section_id}"}}'.encode()
            with urlopen(f"{url}{decision}", body) as response:
                assert response.status == 200
        server.send_signal(signal.SIGINT)
        rest, errors = server.stdout.read(), server.stderr.read()
    assert (server.returncode, errors) == (0, "")
    assert rest == "\nCtrl+C ends.\n\nnotes.dlm: 1 accepted, 1 dropped, 1 left.\n"
    assert [item.pair.question for item in staged(read(path))] == [PAIRS[2][0]]


def test_a_port_in_use_is_one_clear_error(path: Path) -> None:
    with listen(0) as taken:
        done = run("review", "notes.dlm", "--port", taken.getsockname()[1], cwd=path.parent)
    assert done.exit_code == 1 and "can't be used" in str(done.exception) and "--port" in str(done.exception)


def test_nothing_to_review_starts_nothing(path: Path) -> None:
    path.write_text(path.read_text().replace("01JTRX", "01JTRY"))
    done = run("review", "notes.dlm", cwd=path.parent)
    assert done.exit_code == 0
    assert done.stdout == "notes.dlm: nothing to review. To stage pairs: dlm-trl synth instructions notes.dlm\n"
    assert not staged(read(path)) and not rejected(read(path))


def test_a_browser_inside_the_terminal_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert open_browser("http://here") is False and opened == []
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert open_browser("http://here") is True and opened == ["http://here"]


def test_the_command_line_loads_no_server() -> None:
    program = "import sys, dlm_trl.cli.main; print(sorted({'starlette', 'uvicorn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
