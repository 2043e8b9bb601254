"""`dlm-trl chat` in a real process: at a terminal with an adapter on `tiny`, and from a pipe with SmolLM2-135M."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chat.conftest import notes, trained  # noqa: F401  # fixtures

pty = pytest.importorskip("pty")
CHAT = [sys.executable, "-m", "dlm_trl", "chat"]
PATIENCE = 600  # seconds, for a machine that hangs
PAUSE = 5.0  # seconds after which a key is pressed again


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and pass that on
            os.execvp(command[0], command)
        self.read = ""

    def until(self, mark: str) -> str:
        """What the program prints up to this text, and the text."""
        while mark not in self.read:
            assert select.select([self.fd], [], [], PATIENCE)[0], f"no {mark!r} after {self.read[-500:]!r}"
            self._read_more()
        found, mark, self.read = self.read.partition(mark)
        return found + mark

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def press(self, key: str, mark: str) -> None:
        """Press a key until the program prints this text.

        Python sees a signal that arrives between its prompt and its wait for a key only at the next key.
        """
        while mark not in self.read:
            self.write(key)
            while mark not in self.read and select.select([self.fd], [], [], PAUSE)[0]:
                self._read_more()
        self.until(mark)

    def status(self, key: str) -> int:
        """The exit code, once the program has ended; the key ends it."""
        more = "."
        while more:
            if not select.select([self.fd], [], [], 0)[0]:
                self.write(key)
                select.select([self.fd], [], [], PAUSE)
            more = self._more() if select.select([self.fd], [], [], 0)[0] else "."
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read_more(self) -> None:
        more = self._more()
        assert more, f"it ended after {self.read[-500:]!r}"
        self.read += more

    def _more(self) -> str:
        try:
            return os.read(self.fd, 65536).decode(errors="replace")
        except OSError:  # Linux reports the end of a terminal like this
            return ""


def test_a_person_can_talk_compare_interrupt_and_leave(
    trained: Callable[[str], Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    terminal = Terminal(*CHAT, str(trained("tiny")), "--max-new-tokens", "60")
    shown = terminal.until("Ctrl+D ends.")
    assert "adapter on tiny" in shown
    terminal.until("> ")
    terminal.write("What is kneading?\n")
    adapted = terminal.until("> ").removeprefix("What is kneading?").removesuffix("> ").strip()
    terminal.write("/base\n")
    base = terminal.until("base> ").partition("The adapter is off.")[2].removesuffix("base> ").strip()
    assert adapted and base and adapted != base
    terminal.write("/notes\n")
    terminal.until("base+notes> ")
    terminal.press("\x03", "/exit or Ctrl+D ends the chat.")
    terminal.until("base+notes> ")
    terminal.write("What is a starter?\n")
    terminal.until("What is a starter?")
    terminal.write("\x03")  # while it answers, or right after
    terminal.until("base+notes> ")
    assert terminal.status("\x04") == 0


@pytest.mark.heavy
def test_a_real_base_answers_questions_from_a_pipe(tmp_path: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DLM_HOME": str(tmp_path)}
    done = subprocess.run(
        [*CHAT, "smollm2-135m", "--json", "--max-new-tokens", "24"],
        input="What is the capital of France?\n/reset\nWhat is bread made of?\n",
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    turns = [json.loads(line) for line in done.stdout.splitlines()]
    assert [turn["question"] for turn in turns] == ["What is the capital of France?", "What is bread made of?"]
    assert "Paris" in turns[0]["answer"] and "flour" in turns[1]["answer"]
    assert all(turn["complete"] and turn["tokens"] <= 24 for turn in turns)


def test_wrong_usage_is_one_line(tmp_path: Path) -> None:
    for words, code, shown in (
        (("tiny", "--question", " "), 2, "--question is empty"),
        ((str(tmp_path),), 1, "neither an adapter"),
        ((str(tmp_path / "none.dlm"),), 1, "none.dlm"),
    ):
        done = subprocess.run([*CHAT, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == code and shown in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
