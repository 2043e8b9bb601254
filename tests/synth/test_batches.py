"""Whole runs in batches: the real SDKs, a local server with both batch APIs, real processes that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlm_trl.notes import read
from dlm_trl.notes.errors import DlmError, TeacherError, UsageError
from dlm_trl.synth import SynthSettings, batches, synthesize, synthesize_all
from dlm_trl.synth.dry_run import estimate
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.progress import Progress
from dlm_trl.synth.staging import Staged, staged
from tests.synth.writer import HEAD, TOPICS, notes, prose, question, topic_of, write, written
from tests.teachers.batch_server import Batch, BatchApp
from tests.teachers.servers import Answer, Call, serve

OPENAI = SynthSettings(teacher="openai:m", filter="dedup-only", per_section=2, batch=True)
ANTHROPIC = replace(OPENAI, teacher="anthropic:m")
TRIAL = "Reply with an empty list."
both = pytest.mark.parametrize("settings", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
RUN = ["synth", "instructions", "notes.dlm", "--filter", "dedup-only", "--per-section", "2", "--batch", "--teacher"]


async def answer(call: Call) -> str:
    return "[]" if call.prompt == TRIAL else await write(call)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchApp]:
    """Answers `openai:m` and `anthropic:m`, for this process and its subprocesses."""
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(batches, name, 0.01)
    app = BatchApp(reply=answer)
    with serve(app) as url:
        for name, address in (("OPENAI", f"{url}/v1"), ("ANTHROPIC", url)):
            monkeypatch.setenv(f"{name}_API_KEY", "any")
            monkeypatch.setenv(f"{name}_BASE_URL", address)
        yield app


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return notes(tmp_path / "notes.dlm", *TOPICS)


def pairs(items: list[Staged]) -> list[tuple[str, str]]:
    return [tuple(item.pair) for item in items]


def all_written(topics: tuple[str, ...] = TOPICS) -> list[tuple[str, str]]:
    return [pair for topic in topics for pair in written(topic, 2)]


def by_topic(**fates: Any) -> Callable[[Call], Any]:
    """What becomes of the requests about these topics."""
    return lambda call: fates.get(topic_of(call))


class Polls(Progress):
    """What a run tells about its batches; does something at a poll."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.then = then

    def batched(self, batch_id: str, done: int, total: int) -> None:
        self.seen.append((batch_id, done, total))
        self.then()


@contextmanager
def stopped_while_waiting() -> Iterator[Progress]:
    """A run with this progress is interrupted at its first poll, as by Ctrl+C."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yield Polls(interrupt)


@both
def test_a_run_in_a_batch_ends_like_any_other(
    app: BatchApp, path: Path, tmp_path: Path, settings: SynthSettings
) -> None:
    polls = Polls()
    done = synthesize(path, settings, progress=polls)
    assert pairs(done.staged) == all_written()
    counts = done.counts
    assert (counts.sent, counts.from_ledger, counts.replied, counts.kept, counts.failed) == (12, 0, 12, 24, 0)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (12 * 7, 12 * 3)
    assert len(app.batches) == 1 and [call.prompt for call in app.calls] == [TRIAL]
    assert polls.seen == [("batch_0", 0, 12), ("batch_0", 12, 12)]
    in_order = [topic_of(Call(body, {}, 1, 0.0)) for body in app.batches[0].entries.values()]
    assert in_order == list(TOPICS)

    again = synthesize(path, replace(settings, batch=False))
    assert (again.counts.sent, again.counts.from_ledger) == (0, 12) and len(app.calls) == 1
    unbatched = synthesize(path, replace(settings, batch=False, fresh=True))
    assert unbatched.counts.sent == 12
    bodies = {json.dumps(call.body, sort_keys=True) for call in app.calls[1:]}
    assert bodies == {json.dumps(body, sort_keys=True) for body in app.batches[0].entries.values()}


@both
def test_what_a_batch_fails_to_answer_is_asked_once_more(
    app: BatchApp, path: Path, settings: SynthSettings, caplog: pytest.LogCaptureFixture
) -> None:
    error = {"type": "api_error", "message": "ill"}
    app.fate = lambda call: (
        by_topic(Alder="expired", Birch=Answer(500, {"type": "error", "error": error}), Cedar="lost")(call)
        if call.attempt == 1
        else None
    )
    done = synthesize(path, settings)
    assert pairs(done.staged) == all_written() and done.counts.failed == 0
    assert [len(batch.entries) for batch in app.batches] == [12, 3]
    assert "3 requests of the batch failed or expired" in caplog.text


def test_a_lasting_failure_is_reported_and_asked_by_the_next_run(app: BatchApp, path: Path) -> None:
    bad = Answer(400, {"error": {"message": "The server says no."}})
    app.fate = by_topic(Alder="expired", Birch=bad, Cedar="cancelled")
    done = synthesize(path, OPENAI)
    assert pairs(done.staged) == all_written(TOPICS[3:]) and done.counts.failed == 3
    assert sorted(failure.reason.split(" - ")[-1] for failure in done.failures) == [
        "The server says no.",
        "batch_cancelled: This request cancelled.",
        "batch_expired: This request expired.",
    ]
    assert [len(batch.entries) for batch in app.batches] == [12, 1]  # what was refused isn't asked again by itself
    app.fate = lambda call: None
    assert synthesize(path, OPENAI).counts.from_ledger == 9
    assert [len(batch.entries) for batch in app.batches] == [12, 1, 3]
    assert sorted(pairs(staged(read(path)))) == sorted(all_written())


def test_unreadable_replies_are_asked_again_in_the_next_batch(app: BatchApp, path: Path) -> None:
    async def chat(call: Call) -> str:
        if call.prompt == TRIAL:
            return "[]"
        first = len(call.body["messages"]) == 1
        return "I would rather not." if first and topic_of(call) == "Elm" else await write(call)

    app.reply = chat
    done = synthesize(path, OPENAI)
    assert pairs(done.staged) == all_written() and done.counts.retried == 1
    assert [len(batch.entries) for batch in app.batches] == [12, 1] and len(app.calls) == 1


def test_a_request_that_is_too_long_is_divided(app: BatchApp, tmp_path: Path) -> None:
    path = tmp_path / "notes.dlm"
    path.write_text(HEAD + "\n\n".join(f"{prose(topic)} {'It is green. ' * 9}" for topic in TOPICS[:4]) + "\n")
    too_long = Answer(400, {"error": {"message": "Your input exceeds the context window of this model."}})
    app.fate = lambda call: too_long if len(question(call)[2]) > 400 else None
    done = synthesize(path, OPENAI)
    assert done.counts.divided == 1 and done.counts.kept > 0
    assert [len(batch.entries) for batch in app.batches] == [1, 2]


@both
def test_an_interrupt_leaves_the_batch_and_the_same_command_collects_it(
    app: BatchApp, path: Path, settings: SynthSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with stopped_while_waiting() as progress:
        synthesize(path, settings, progress=progress)
    assert "The batch batch_0 goes on at the provider: rerun the same command to collect" in caplog.text
    assert len(Ledger(read(path))) == 0
    expected = estimate(path, replace(settings, price=(1.0, 1.0)))
    assert (expected.requests, expected.from_ledger, expected.cost) == (12, 12, 0.0)
    with pytest.raises(DlmError, match=r"12 of the requests were submitted in a batch.*--batch"):
        synthesize(path, replace(settings, batch=False))
    done = synthesize(path, settings)
    assert pairs(done.staged) == all_written() and done.counts.sent == 12
    assert len(app.batches) == 1 and max(app.asked.values()) == 1 and len(app.calls) == 1


def test_fresh_asks_again_instead_of_collecting(app: BatchApp, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with stopped_while_waiting() as progress:
        synthesize(path, OPENAI, progress=progress)
    with stopped_while_waiting() as progress:
        synthesize(path, replace(OPENAI, fresh=True), progress=progress)
    assert "rerun the same command, without --fresh," in caplog.text
    assert len(app.batches) == 2
    synthesize(path, OPENAI)
    assert len(app.batches) == 2 and app.batches[0].polls == 1  # the newer one is collected
    assert synthesize(path, replace(OPENAI, fresh=True)).counts.sent == 12 and len(app.batches) == 3
    synthesize(path, replace(OPENAI, batch=False, fresh=True))


@both
def test_prose_that_is_edited_meanwhile_is_asked_about_anew(app: BatchApp, path: Path, settings: SynthSettings) -> None:
    before = path.read_text()
    with stopped_while_waiting() as progress:
        synthesize(path, settings, progress=progress)
    path.write_text(before.replace("Alder is a plant", "Yew is a plant"))
    done = synthesize(path, settings)
    assert pairs(done.staged) == all_written(("Yew", *TOPICS[1:]))
    assert [len(batch.entries) for batch in app.batches] == [12, 1]
    path.write_text(before)  # the reply that wasn't needed is still in the batch
    assert pairs(synthesize(path, settings).staged) == all_written(("Alder",)) and len(app.batches) == 2


@both
def test_a_batch_whose_id_was_not_recorded_is_found_or_submitted(
    app: BatchApp, path: Path, settings: SynthSettings
) -> None:
    error = {"type": "api_error", "message": "ill"}
    app.refusal = Answer(500, {"type": "error", "error": error})  # the batch exists, but its id is lost
    with pytest.raises(TeacherError, match="ill"):
        synthesize(path, settings)
    app.refusal = None
    entries = {f"other-{n}": {"messages": [{"content": "someone else's"}]} for n in range(12)}
    app.batches.append(Batch("stranger", entries))
    app.reply = lambda call: answer(call) if "else" not in call.prompt else _text("x")
    done = synthesize(path, settings)
    assert pairs(done.staged) == all_written() and max(app.asked.values()) == 1

    app.refusal = Answer(429, {"type": "error", "error": error})
    with pytest.raises(TeacherError, match="ill"):
        synthesize(path, replace(settings, per_section=1))
    app.refusal = None
    del app.batches[-1]  # this time it was not created
    done = synthesize(path, replace(settings, per_section=1))
    assert done.counts.sent == 12 and done.counts.failed == 0


async def _text(text: str) -> str:
    return text


def test_a_large_run_is_divided_and_a_refused_part_is_submitted_again(
    app: BatchApp, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm_trl.teachers.openai import OpenAITeacher

    monkeypatch.setattr(OpenAITeacher, "max_requests", 5)

    def refuse() -> None:
        app.batches[1].problem, app.batches[1].code = "The file is empty.", "empty_file"

    with pytest.raises(TeacherError, match=r"openai:m refused the batch batch_1: empty_file: The file is empty\."):
        synthesize(path, OPENAI, progress=Polls(refuse))
    assert [len(batch.entries) for batch in app.batches] == [5, 5, 2]
    assert len(Ledger(read(path))) == 7
    done = synthesize(path, OPENAI)
    assert pairs(done.staged) == all_written() and [len(batch.entries) for batch in app.batches] == [5, 5, 2, 5]


def test_a_batch_that_the_queue_has_no_room_for_is_divided(app: BatchApp, path: Path) -> None:
    app.queue = 4
    done = synthesize(path, OPENAI)
    assert pairs(done.staged) == all_written() and done.counts.failed == 0
    assert [len(batch.entries) for batch in app.batches] == [12, 6, 3, 3, 6, 3, 3] and len(app.calls) == 1
    app.queue = 0
    with pytest.raises(TeacherError, match=r"openai:m refused the batch batch_\d+: token_limit_exceeded: Enq"):
        synthesize(path, replace(OPENAI, per_section=1))
    app.queue = 100
    assert synthesize(path, replace(OPENAI, per_section=1)).counts.failed == 0


def test_several_documents_are_submitted_before_the_first_is_waited_for(
    app: BatchApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [notes(tmp_path / f"{n}.dlm", *TOPICS[n : n + 2]) for n in range(3)]
    for n, path in enumerate(paths):
        path.write_text(path.read_text().replace("00A", f"00{'ABC'[n]}"))
    at_first_poll: list[int] = []
    outcomes = list(synthesize_all(paths, OPENAI, progress=Polls(lambda: at_first_poll.append(len(app.batches)))))
    assert at_first_poll[0] == 3 and len(app.batches) == 3 and len(app.calls) == 1
    assert [pairs(done.staged) for done in outcomes] == [all_written(TOPICS[n : n + 2]) for n in range(3)]
    list(synthesize_all(paths, replace(OPENAI, per_section=1, budget_tokens=100_000)))
    assert len(app.batches) == 6 and app.batches[4].created > app.batches[3].created


def test_limits_hold_and_count_half_the_price(app: BatchApp, path: Path) -> None:
    settings = replace(OPENAI, price=(1000.0, 1000.0))
    whole, half = estimate(path, replace(settings, batch=False)).cost, estimate(path, settings).cost
    assert whole is not None and half == pytest.approx(whole / 2) and estimate(path, settings).seconds is None
    done = synthesize(path, replace(settings, max_cost=half / 2))
    assert done.cost == pytest.approx(done.counts.sent * 10 * 1000 / 1e6 / 2) and done.cost <= half / 2
    assert sum(len(batch.entries) for batch in app.batches) == done.counts.sent and len(app.batches) > 1
    few = synthesize(path, replace(OPENAI, max_pairs=3, strategy="expansion"))
    assert few.counts.kept == 3 and len(app.batches[-1].entries) < 4


def test_what_can_not_be_asked_in_batches_is_refused_before_anything_is_sent(app: BatchApp, path: Path) -> None:
    for teacher in ("self", "hf:tiny", "vllm-server:http://127.0.0.1:1#m"):
        with pytest.raises(UsageError, match=f"{teacher.split('#')[0]}.* can't be asked in batches"):
            replace(OPENAI, teacher=teacher)
    app.has_batches = False
    with pytest.raises(TeacherError, match=r"openai:m can't be asked in batches: http://.*/v1/ has no batch API"):
        synthesize(path, OPENAI)
    assert app.calls == []


def test_it_takes_one_process(app: BatchApp, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        synthesize(path, OPENAI)


def started(folder: Path, teacher: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "dlm_trl", *RUN, teacher, "--json"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def killed_and_resumed(app: BatchApp, path: Path, teacher: str, when: Callable[[], bool], by: signal.Signals) -> str:
    """Kill a run once it has come so far, run it again, and return what the killed one had on stderr."""
    app.holds = True
    with started(path.parent, teacher) as process:
        wait_until(when, process)
        os.kill(process.pid, by)
        out, err = process.communicate()
    assert process.returncode != 0 and "Traceback" not in err
    assert json.loads(out or "[]") == []
    app.holds, app.polls, app.wait = False, 0, 0.0
    with started(path.parent, teacher) as process:
        out, again = process.communicate()
    assert process.returncode == 0, again
    (outcome,) = json.loads(out)  # nothing else is on stdout
    assert outcome["counts"]["sent"] == 12 and "batch batch_0: 12 of 12 done" in again
    assert pairs(staged(read(path))) == all_written()
    assert len(app.batches) == 1 and set(app.asked.values()) == {1} and len(app.asked) == 12
    assert [call.prompt for call in app.calls] == [TRIAL]
    return err


def polled(app: BatchApp) -> Callable[[], bool]:
    return lambda: bool(app.batches and app.batches[0].polls)


@pytest.mark.heavy
@pytest.mark.parametrize("teacher", ["openai:m", "anthropic:m"])
def test_the_same_command_finds_the_batch_of_a_killed_one(app: BatchApp, path: Path, teacher: str) -> None:
    killed_and_resumed(app, path, teacher, polled(app), signal.SIGKILL)


@pytest.mark.heavy
@pytest.mark.parametrize("teacher", ["openai:m", "anthropic:m"])
def test_a_run_that_is_killed_while_it_submits_finds_its_batch(app: BatchApp, path: Path, teacher: str) -> None:
    app.wait = 60.0
    killed_and_resumed(app, path, teacher, lambda: bool(app.batches), signal.SIGKILL)
    lines = [json.loads(line) for line in Ledger(read(path)).path.read_text().splitlines()]
    assert [set(line) for line in lines[1:3]] == [{"batch", "at", "keys"}, {"batch", "id"}]


@pytest.mark.heavy
def test_an_interrupted_command_says_how_to_collect(app: BatchApp, path: Path) -> None:
    err = killed_and_resumed(app, path, "openai:m", polled(app), signal.SIGINT)
    assert "The batch batch_0 goes on at the provider: rerun the same command" in err
