"""`vllm-server:` against a real vLLM: replies that keep to the schema, and a fleet of which one server dies."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from dlm_trl.cli.main import app
from dlm_trl.models.weights import find_weights
from dlm_trl.notes import read
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.progress import Progress
from dlm_trl.synth.run import synthesize
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.teachers.protocol import Reply, Usage
from dlm_trl.teachers.vllm import VllmTeacher
from tests.vllm.conftest import BASE, Serve

NAME = "writer"
NEW_TOKENS = 160


@pytest.fixture(scope="module")
def line(home: Path) -> str:
    """Starts at once, since nothing is compiled."""
    folder = find_weights(BASE).folder
    return f"vllm serve {folder} --served-model-name {NAME} --dtype bfloat16 --max-model-len 2048 --enforce-eager"


@pytest.fixture(scope="module")
def server(serve: Serve, line: str) -> Iterator[str]:
    with serve(line) as (url, _):
        yield url


def test_replies_keep_to_the_schema_and_the_model_is_found_by_itself(server: str, notes: Callable[[int], Path]) -> None:
    teacher = VllmTeacher([server])
    assert (teacher.revision, teacher.context) == (NAME, 2048)
    path, new_tokens = notes(4), str(NEW_TOKENS)
    words = ["synth", "instructions", str(path), "--teacher", f"vllm-server:{server}", "--filter", "dedup-only"]
    ran = CliRunner().invoke(app, [*words, "--max-new-tokens", new_tokens, "--json"])
    assert ran.exit_code == 0, ran.output
    (outcome,) = json.loads(ran.stdout)
    counts = outcome["counts"]
    assert (counts["sent"] - counts["retried"], counts["failed"]) == (4, 0)
    assert counts["generated"] >= 4 and counts["kept"] == len(outcome["staged"]) > 0
    whole = [e["text"] for e in Ledger(read(path)).entries() if e["completion_tokens"] < NEW_TOKENS]
    assert whole  # without a schema this model's replies begin with words, or are no object
    for text in whole:
        pairs = json.loads(text)["pairs"]
        assert all(pair.keys() == {"question", "answer"} for pair in pairs) and len(pairs) <= 3  # --per-section


def test_a_run_goes_on_when_one_of_two_servers_is_killed(
    server: str, serve: Serve, line: str, notes: Callable[[int], Path]
) -> None:
    path, each = notes(14), 2
    before = answered(server)
    with serve(line) as (other, process):
        settings = SynthSettings(
            teacher=f"vllm-server:{other},{server}",
            filter="none",
            max_new_tokens=NEW_TOKENS,
            concurrency=each,
        )
        came: list[Reply] = []
        by_other = 0

        class Kill(Progress):
            def replied(self, reply: Reply, waiting: int) -> None:
                nonlocal by_other
                came.append(reply)
                if process.poll() is None and (by_other := answered(other)) >= 2:
                    assert waiting > 2 * each  # in the middle of the run
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

        done = synthesize(path, settings, progress=Kill())
        assert process.poll() == -signal.SIGKILL
    counts, asked = done.counts, done.counts.sent
    assert (asked - counts.retried, counts.failed) == (14, 0)
    # What the dead one had in hand, and nothing else, went to the other once more.
    assert abs(by_other + answered(server) - before - asked) <= each
    entries = list(Ledger(read(path)).entries())
    assert len(entries) == len({entry["key"] for entry in entries}) == len(came) == asked
    told = [Usage(entry["prompt_tokens"], entry["completion_tokens"]) for entry in entries]
    assert all(usage.prompt_tokens and usage.completion_tokens for usage in told)
    assert sum(told, Usage()) == done.usage
    # The same command, with one server still dead, pays for nothing.
    again = synthesize(path, settings)
    assert (again.counts.sent, again.counts.from_ledger) == (0, asked)


def answered(url: str) -> int:
    """Requests that a server finished, by its own count."""
    text = urlopen(f"{url}/metrics").read().decode()
    return round(sum(float(n) for n in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.M)))
