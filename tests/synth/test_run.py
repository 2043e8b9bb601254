"""Whole runs: a real server with the real SDK, the real store, the real command killed, two real processes."""

import asyncio
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.models.load import load_tokenizer
from dlm_trl.notes import Document, read, store
from dlm_trl.notes.errors import DlmError, TeacherError
from dlm_trl.notes.synth_runs import read_runs
from dlm_trl.rows.convert import convert
from dlm_trl.synth import SynthSettings, synthesize, synthesize_all
from dlm_trl.synth.apply import revert
from dlm_trl.synth.budget import max_usage
from dlm_trl.synth.dry_run import estimate
from dlm_trl.synth.ledger import Ledger, run_lock
from dlm_trl.synth.plan import plan
from dlm_trl.synth.report import Stage
from dlm_trl.synth.staging import Staged, applied, staged
from dlm_trl.teachers.load import inspect_teacher
from dlm_trl.teachers.openai import OpenAITeacher
from dlm_trl.teachers.protocol import Reply, Request, Usage
from tests.synth.writer import HEAD, TOPICS, asked, listed, notes, pair, prose, topic_of, write, written
from tests.teachers.servers import Answer, App, Call, completion, serve

CONFIG = Path(__file__).parents[2] / "accelerate_configs" / "cpu_2proc.yaml"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
PLAIN = SynthSettings(teacher="openai:m", filter="dedup-only", per_section=2)
RUN = ["synth", "instructions", "notes.dlm", "--teacher", "openai:m", "--filter", "dedup-only", "--per-section", "2"]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with asked(App(reply=write), monkeypatch) as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return notes(tmp_path / "notes.dlm", *TOPICS)


def pairs(items: list[Staged]) -> list[tuple[str, str]]:
    return [tuple(item.pair) for item in items]


def timeless(path: Path) -> list[Staged]:
    return [replace(item, synth_at="") for item in staged(read(path))]


def quick() -> OpenAITeacher:
    """`openai:m` without retries of failed requests."""
    return OpenAITeacher("m", max_retries=0)


def test_nothing_heavy_is_loaded_before_a_teacher_needs_it() -> None:
    program = "import sys, dlm_trl.synth as _; print({'torch', 'openai', 'datasketch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_run_requests_and_stages_in_file_order(app: App, path: Path) -> None:
    done = synthesize(path, PLAIN)
    assert pairs(done.staged) == [p for topic in TOPICS for p in written(topic, 2)]
    assert done.staged == staged(read(path))
    counts = done.counts
    assert (counts.sections, counts.sent, counts.replied, counts.generated, counts.kept) == (12, 12, 12, 24, 24)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (12 * 7, 12 * 3)
    assert len({item.synth_at for item in done.staged}) == 1 and done.cost is None and done.stopped is None
    assert len(app.calls) == 12 and app.most <= 16


def test_an_answer_truncated_by_the_token_limit_is_dropped(app: App, tmp_path: Path) -> None:
    async def labelled(_: Call) -> str:
        return "Q: What is dew?\nA: Water.\n\nQ: What is hail?\nA: Ice that fa"

    app.reply = labelled
    path = notes(tmp_path / "notes.dlm", "dew")
    done = synthesize(path, replace(PLAIN, max_new_tokens=3))  # the server reports three
    assert pairs(done.staged) == [("What is dew?", "Water.")]


def test_a_pair_gets_the_adapter_of_its_prose(app: App, tmp_path: Path) -> None:
    head = HEAD.replace("base_model: tiny\n", "base_model: tiny\ntraining:\n  adapters: {wax: {}, bees: {}}\n")
    path = tmp_path / "notes.dlm"
    path.write_text(f"{head}{prose('Elm')}\n\n::prose#bees::\n{prose('Fir')}\n")
    before = path.read_bytes()
    done = synthesize(path, PLAIN, apply_now=True)
    assert [item.adapter for item in done.staged] == [None, None, "bees", "bees"] and done.applied == 4
    assert [s.adapter for s in read(path).sections if s.auto_synth] == [None, None, "bees", "bees"]
    of_bees = [row["prompt"][0]["content"] for row in convert(read(path), "sft", "bees")]
    assert of_bees == [question for question, _ in written("Fir", 2)]
    assert [item.adapter for item in applied(read(path))] == [None, None, "bees", "bees"]
    assert revert(path).document.raw == before


def test_a_moved_and_copied_document_has_one_owner(app: App, path: Path) -> None:
    synthesize(path, PLAIN)
    moved = path.rename(path.with_name("moved.dlm"))
    assert synthesize(moved, PLAIN).staged == [] and len(app.calls) == 12
    path.write_bytes(moved.read_bytes())
    assert len(staged(read(moved))) == 24 and len(Ledger(read(moved))) == 12
    for look in (staged, Ledger):
        with pytest.raises(DlmError, match=r"belongs to .*moved\.dlm"):
            look(read(path))


def test_an_unreadable_reply_is_counted_if_the_budget_ends_before_its_retry(app: App, path: Path) -> None:
    async def chatter(_: Call) -> str:
        return "I would rather not."

    app.reply = chatter
    done = synthesize(path, replace(PLAIN, budget_tokens=900))
    counts = done.counts
    assert 0 < counts.sent < 12 and counts.retried == 0 and done.stopped
    assert counts.unparsed == counts.sent == len(done.failures)


def test_a_local_teacher_can_be_quantised(path: Path) -> None:
    settings = SynthSettings(
        teacher="hf:tiny", filter="none", per_section=1, max_pairs=1, max_new_tokens=4, quantization="4bit"
    )
    synthesize(path, settings)
    entry = next(Ledger(read(path)).entries())
    keys = {
        how: {ask.request.key for ask in plan(read(path), settings, inspect_teacher("hf:tiny", read(path), how))}
        for how in (None, "4bit")
    }
    assert entry["key"] in keys["4bit"] - keys[None]


def test_nothing_depends_on_the_order_of_arrival(app: App, path: Path, dlm_home: Path, tmp_path: Path) -> None:
    synthesize(path, replace(PLAIN, concurrency=1))
    one_by_one = timeless(path)
    dlm_home.rename(tmp_path / "elsewhere")
    order: list[str] = []

    async def write_late(call: Call) -> str:
        await asyncio.sleep(random.Random(len(app.calls)).random() / 5)
        order.append(topic_of(call))
        return await write(call)

    app.reply = write_late
    synthesize(path, PLAIN)
    assert order != list(TOPICS) and app.most > 1
    assert timeless(path) == one_by_one


def test_a_killed_and_repeated_run_requests_nothing_twice_and_ends_the_same(
    app: App, path: Path, dlm_home: Path, tmp_path: Path
) -> None:
    synthesize(path, PLAIN)
    uninterrupted = timeless(path)
    dlm_home.rename(tmp_path / "elsewhere")
    app.attempts.clear()
    app.calls.clear()
    dice = random.Random()
    command = [sys.executable, "-m", "dlm_trl", *RUN, "--concurrency", "2"]
    finished: Counter[str] = Counter()
    for until in (3, 6, 9, None):
        # The server answers some requests and lets the next one wait, so that no run ends before it is killed.
        app.rule = lambda call, until=until: Answer(wait=60 if until and len(app.calls) > until else dice.random() / 20)
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            while until and len(app.calls) < until and process.poll() is None:
                time.sleep(dice.random() / 100)
            if until:
                process.send_signal(signal.SIGKILL)
            output = process.communicate()[0].decode()
        assert process.returncode == (-signal.SIGKILL if until else 0), output
        assert {p: app.attempts[p] for p in finished} == finished
        # A run killed before its first reply was recorded leaves no ledger.
        asked_for = [entry["messages"][-1]["content"] for entry in Ledger(read(path)).entries()]
        assert len(asked_for) == len(set(asked_for))
        finished = Counter({p: app.attempts[p] for p in asked_for})
    assert len(finished) == 12 and timeless(path) == uninterrupted


def test_a_run_stopped_before_applying_applies_when_repeated(
    app: App, path: Path, dlm_home: Path, tmp_path: Path
) -> None:
    original = path.read_bytes()
    settings = replace(PLAIN, max_pairs=5)
    assert synthesize(path, settings, apply_now=True).applied == 5
    uninterrupted = [s.content for s in read(path).sections]
    path.write_bytes(original)
    dlm_home.rename(tmp_path / "elsewhere")
    synthesize(path, settings)
    calls = len(app.calls)
    done = synthesize(path, settings, apply_now=True)
    assert [s.content for s in read(path).sections] == uninterrupted and staged(read(path)) == []
    assert (done.counts.kept, done.applied, done.staged) == (5, 5, [])
    # Once more: everything is there, so nothing is requested, staged or written.
    after = path.read_bytes()
    done = synthesize(path, settings, apply_now=True)
    assert (done.counts.kept, done.applied, done.staged) == (5, 0, []) and path.read_bytes() == after
    assert len(app.calls) == calls


class TestBudget:
    """A server that uses the maximum tokens of a request."""

    @pytest.fixture
    def spent(self, app: App, path: Path) -> list[int]:
        spent: list[int] = []
        teacher = OpenAITeacher("m")
        asks = plan(read(path), replace(PLAIN, max_new_tokens=64), teacher)
        bounds = {ask.request.messages[0]["content"]: max_usage(ask.request, teacher) for ask in asks}
        self.dearest = max(bound.prompt_tokens for bound in bounds.values()) + 64

        def use_all(call: Call) -> Answer:
            bound = bounds[call.prompt]
            spent.append(bound.prompt_tokens + 64)
            return Answer(body=completion(listed(written(topic_of(call), 2)), bound.prompt_tokens, 64))

        app.rule = use_all
        return spent

    def test_it_stops_before_a_request_that_could_exceed_it(self, spent: list[int], path: Path) -> None:
        limit = int(self.dearest * 3.5)
        done = synthesize(path, replace(PLAIN, max_new_tokens=64, budget_tokens=limit))
        assert limit - self.dearest < sum(spent) <= limit
        assert done.counts.sent == 3 and pairs(done.staged) == [p for topic in TOPICS[:3] for p in written(topic, 2)]
        assert done.stopped == "The limit on cost or tokens was reached: 9 requests were not sent."

    def test_cost_too_and_the_ledger_is_free(self, spent: list[int], path: Path) -> None:
        settings = replace(PLAIN, max_new_tokens=64, price=(1e6, 2e6), max_cost=self.dearest * 3.0)
        first = synthesize(path, settings)
        assert first.cost is not None and first.cost <= settings.max_cost
        assert first.counts.sent == 2
        second = synthesize(path, settings)
        assert (second.counts.from_ledger, second.counts.sent, len(second.staged)) == (2, 2, 4)

    def test_without_reported_usage_the_maximum_is_assumed(
        self, spent: list[int], app: App, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        use_all = app.rule

        def tell_nothing(call: Call) -> Answer:
            answer = use_all(call)
            return replace(answer, body={**answer.body, "usage": None})

        app.rule = tell_nothing
        limit = int(self.dearest * 3.5)
        done = synthesize(path, replace(PLAIN, max_new_tokens=64, budget_tokens=limit, price=(1e6, 1e6)))
        assert sum(spent) <= limit and done.counts.sent == 3 and done.cost == sum(spent)
        assert [r.getMessage() for r in caplog.records].count(
            "openai:m doesn't report token usage: assuming the maximum."
        ) == 1

    def test_one_budget_for_all_documents(self, spent: list[int], path: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.dlm"
        other.write_text(path.read_text().replace("0000000A", "0000000B"))
        done = list(synthesize_all([path, other], replace(PLAIN, budget_tokens=self.dearest * 15, max_new_tokens=64)))
        assert [outcome.counts.sent for outcome in done] == [12, 3]

    def test_a_budget_below_one_request_sends_nothing(self, spent: list[int], path: Path) -> None:
        done = synthesize(path, replace(PLAIN, max_new_tokens=64, budget_tokens=64))
        assert done.counts.sent == 0 and done.stopped and not spent


class TestMaxPairs:
    def test_it_counts_accepted_pairs_spread_over_the_file_and_stops_asking(self, app: App, path: Path) -> None:
        done = synthesize(path, replace(PLAIN, per_section=4, max_pairs=4))
        assert len(app.calls) == 4
        topics = [item.pair.question.split()[-1].rstrip("?") for item in done.staged]
        assert sorted(set(topics), key=TOPICS.index) == topics and len(topics) == 4
        assert TOPICS.index(topics[-1]) >= 6
        assert done.counts.surplus == 12

    def test_rejected_pairs_are_not_counted(self, app: App, path: Path) -> None:
        async def write_the_same(call: Call) -> str:
            return listed([pair("everything", "colour"), pair(topic_of(call), "height")])

        app.reply = write_the_same
        done = synthesize(path, replace(PLAIN, max_pairs=8))
        assert done.counts.kept == 8 and 6 < len(app.calls) < 12
        assert done.counts.duplicate > 0

    def test_repeating_the_command_sends_no_requests(self, app: App, path: Path) -> None:
        first = synthesize(path, replace(PLAIN, max_pairs=4))
        second = synthesize(path, replace(PLAIN, max_pairs=4))
        assert len(app.calls) == 4 and second.staged == [] and second.counts.kept == 4
        more = synthesize(path, replace(PLAIN, max_pairs=6))
        assert len(more.staged) == 2 and len(staged(read(path))) == len(first.staged) + 2


class TestTooLong:
    def test_the_prose_is_divided_until_it_fits(self, app: App, tmp_path: Path) -> None:
        path = notes(tmp_path / "notes.dlm", "Elm", "dew")
        path.write_text(path.read_text() + "\n" + " ".join(f"The pump of hall {i} is bled." for i in range(40)))
        limit, seen = 600, []
        refused = {"error": {"message": "request (990 tokens) exceeds the available context size (600 tokens)"}}
        app.rule = lambda call: Answer(400, refused) if len(call.prompt) > limit else seen.append(call.prompt)
        app.reply = lambda call: write_text(listed([(f"What is {len(call.prompt)}?", call.prompt[-20:])]))
        done = synthesize(path, replace(PLAIN, per_section=40))
        assert done.counts.divided and not done.counts.failed and not done.failures
        halls = [word for word in " ".join(seen).replace(".", " ").split() if word.isdigit()]
        assert {str(i) for i in range(40)} <= set(halls)  # each sentence is in a request that fits
        assert done.counts.replied == len(seen) == done.counts.sent - done.counts.divided

    def test_short_prose_is_not_divided(self, app: App, path: Path) -> None:
        refused = {"error": {"message": "maximum context length is 4 tokens"}}
        app.rule = lambda call: Answer(400, refused)
        done = synthesize(path, PLAIN)
        assert (done.counts.divided, done.counts.failed, len(app.calls)) == (0, 12, 12)


def test_a_reply_cut_off_by_the_server_is_read_as_such_also_from_the_ledger(app: App, tmp_path: Path) -> None:
    text = "Q: What is dew?\nA: Water.\n\nQ: What is hail?\nA: Ice that fa"
    body = completion(text)
    body["choices"][0]["finish_reason"] = "length"
    app.rule = lambda call: Answer(body=body)
    path = notes(tmp_path / "notes.dlm", "dew")
    for sent in (1, 0):
        done = synthesize(path, PLAIN)
        assert (done.counts.sent, done.counts.generated) == (sent, 1)


def test_fresh_sends_requests_again(app: App, path: Path) -> None:
    synthesize(path, PLAIN)
    assert synthesize(path, PLAIN).counts.from_ledger == 12 and len(app.calls) == 12
    app.reply = lambda call: write_text(listed([pair(topic_of(call), "scent")]))
    done = synthesize(path, replace(PLAIN, fresh=True))
    assert (done.counts.sent, len(app.calls), len(done.staged)) == (12, 24, 12)
    assert synthesize(path, PLAIN).counts.generated == 12  # the later reply counts


async def write_text(text: str) -> str:
    return text


def test_the_same_model_on_another_port_reuses_the_ledger(app: App, path: Path) -> None:
    url = os.environ["OPENAI_BASE_URL"]
    synthesize(path, replace(PLAIN, teacher=f"vllm-server:{url}"))
    with serve(App(reply=write)) as other:
        fleet = f"vllm-server:{other},{url}"
        done = synthesize(path, replace(PLAIN, teacher=fleet))
        assert (done.counts.sent, done.counts.from_ledger, done.counts.kept) == (0, 12, 24)
        assert synthesize(path, replace(PLAIN, teacher=f"{fleet}#another")).counts.sent == 12


class TestUnreadable:
    def test_it_is_retried_once_with_the_problem(self, app: App, path: Path) -> None:
        async def stumble(call: Call) -> str:
            first = len(call.body["messages"]) == 1
            return "Sure! Which?" if first and topic_of(call) in TOPICS[:2] else await write(call)

        app.reply = stumble
        done = synthesize(path, PLAIN)
        assert pairs(done.staged) == [p for topic in TOPICS for p in written(topic, 2)]
        assert (done.counts.sent, done.counts.retried, done.counts.unparsed) == (14, 2, 0)
        seconds = [call for call in app.calls if len(call.body["messages"]) == 3]
        assert [m["content"] for m in seconds[0].body["messages"]][1] == "Sure! Which?"
        assert "There is no JSON object in the reply." in seconds[0].prompt
        again = synthesize(path, PLAIN)
        assert len(app.calls) == 14 and (again.counts.sent, again.counts.retried) == (0, 0)

    def test_lone_surrogates_are_retried_too(self, app: App, path: Path) -> None:
        app.reply = lambda call: write_text("No \ud83d.") if "Elm" in str(call.body) else write(call)
        for asked_now in (13, 0):
            done = synthesize(path, PLAIN)
            assert (done.counts.sent, done.counts.failed, done.counts.unparsed) == (asked_now, 0, 1)

    def test_a_second_failure_is_counted_and_recorded(self, app: App, path: Path) -> None:
        app.reply = lambda call: write_text("No.") if topic_of(call) == "Elm" else write(call)
        for asked_now in (13, 0):
            done = synthesize(path, PLAIN)
            assert (done.counts.sent, done.counts.unparsed, done.counts.kept) == (asked_now, 1, 22)
            (failure,) = done.failures
            assert failure.section_id == read(path).sections[4].section_id and "no JSON" in failure.reason
        assert len(app.calls) == 13


def test_a_failed_request_does_not_affect_others_and_is_sent_next_time(app: App, path: Path) -> None:
    app.rule = lambda call: Answer(500, {"error": {"message": "out of order"}}) if "Elm" in call.prompt else None
    done = synthesize(path, PLAIN, teacher=quick())
    assert (done.counts.failed, done.counts.kept) == (1, 22)
    assert "out of order" in done.failures[0].reason
    app.rule = lambda call: None
    done = synthesize(path, PLAIN)
    assert (done.counts.sent, done.counts.from_ledger, pairs(done.staged)) == (1, 11, written("Elm", 2))


def test_a_request_gives_no_more_pairs_than_requested(app: App, path: Path) -> None:
    app.reply = lambda call: write_text(listed(written(topic_of(call), 4)))
    done = synthesize(path, PLAIN)
    assert (done.counts.generated, done.counts.surplus, done.counts.kept) == (48, 24, 24)
    assert pairs(done.staged) == [p for topic in TOPICS for p in written(topic, 2)]


@pytest.mark.parametrize("filter", ["none", "dedup-only"])
def test_duplicates_are_rejected_unless_filtering_is_off(app: App, path: Path, filter: str) -> None:
    app.reply = lambda call: write_text(listed([("What grows here?", "A plant."), ("What  grows HERE?", "A plant!")]))
    done = synthesize(path, replace(PLAIN, filter=filter))
    # The same pair for two sections is one section of a document.
    assert (len(done.staged), done.counts.duplicate) == ((2, 0) if filter == "none" else (1, 23))


class TestBeforeTheFirstRequest:
    @pytest.mark.parametrize(
        ("changed", "kind"),
        [
            ({"judge": "hf:/nowhere/at/all", "filter": "sway"}, "BaseModelError"),
            ({"judge": "self", "filter": "sway"}, "AdapterError"),
            ({"judge": "openai:m", "filter": "sway"}, "UsageError"),
            ({"teacher": "self"}, "AdapterError"),
            ({"teacher": "hf:/nowhere/at/all"}, "BaseModelError"),
            ({"teacher": "nobody"}, "UsageError"),
            ({"prompt": Path("/nowhere/prompt.txt")}, "PromptError"),
        ],
    )
    def test_what_is_missing_is_an_error(self, app: App, path: Path, changed: dict[str, Any], kind: str) -> None:
        with pytest.raises(DlmError) as caught:
            synthesize(path, replace(PLAIN, **changed))
        assert caught.value.kind == kind and not app.calls

    def test_so_is_a_key(self, app: App, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(DlmError, match="OPENAI_API_KEY") as caught:
            synthesize(path, PLAIN)
        assert caught.value.kind == "TeacherError"

    def test_a_server_with_a_short_context(self, app: App, path: Path) -> None:
        app.models = [{"id": "m", "max_model_len": 600}]
        url = os.environ["OPENAI_BASE_URL"]
        with pytest.raises(DlmError, match="context of 600 tokens"):
            synthesize(path, replace(PLAIN, teacher=f"vllm-server:{url}"))
        assert not app.calls

    def test_so_is_a_prompt_and_before_weights_are_loaded(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dlm_trl.synth.run.load_teacher", lambda *_, **__: pytest.fail("It takes minutes."))
        (tmp_path / "prompt.txt").write_text("Write.")
        with pytest.raises(DlmError, match=r"prompt\.txt"):
            list(synthesize_all([path], SynthSettings(teacher="hf:tiny", prompt=tmp_path / "prompt.txt")))

    @pytest.mark.parametrize("more", ["", "::std::\n", "::instruction::\n### Q\nWho?\n"])
    def test_every_document_is_read(self, app: App, path: Path, tmp_path: Path, more: str) -> None:
        broken = notes(tmp_path / "broken.dlm", "Yew", more=more)
        broken.write_text(broken.read_text().replace("0000000A", "0000000B" if more else "B"))
        with pytest.raises(DlmError, match=r"broken\.dlm"):
            list(synthesize_all([path, broken], PLAIN))
        with pytest.raises(DlmError, match=r"broken\.dlm"):
            estimate(broken, PLAIN)
        assert not app.calls

    def test_every_documents_adapter_is_checked(self, path: Path, tmp_path: Path, random_base: Path) -> None:
        other = notes(tmp_path / "other.dlm", "Yew")
        other.write_text(other.read_text().replace("0000000A", "0000000B"))
        version = store.next_version(read(path).frontmatter.dlm_id)
        version.mkdir(parents=True)
        (version / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(random_base)})
        )
        load_tokenizer(str(random_base)).save_pretrained(version)
        store.set_current_adapter(read(path).frontmatter.dlm_id, version)
        with pytest.raises(DlmError, match=r"other\.dlm: No adapter"):
            list(synthesize_all([path, other], replace(PLAIN, teacher="self")))


class Choosing:
    """A teacher whose reply follows from the request's key alone; it fails where the reply is None, and ends the run
    after `most` requests.
    """

    reference, revision, context = "openai:m", "m", None

    def __init__(self, replies: list[str | None], most: int | None = None) -> None:
        self.replies, self.most, self.asked = replies, most, 0

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        return None

    def generate(self, requests: Sequence[Request]) -> Generator[Reply]:
        for request in sorted(requests, key=lambda request: request.key):
            if self.asked == self.most:
                raise TeacherError("Gone.")
            self.asked += 1
            text = self.replies[int(request.key, 16) % len(self.replies)]
            yield Reply(request.key, text or "", error="refused" if text is None else None)


SOME_PAIRS = [pair("Elm", "colour"), pair("Elm", "height"), pair("Fir", "pest"), ("A\x00?", "B."), ("Who?", "We.")]
REPLIES = (
    st.none()
    | st.sampled_from(["No \ud83d.", "What is Alder?", "Where does a plant grow?"])
    | st.lists(st.sampled_from(SOME_PAIRS), max_size=4).map(listed)
)


@given(
    st.lists(REPLIES, min_size=1, max_size=5),
    st.builds(
        partial(replace, PLAIN, max_new_tokens=20),
        filter=st.sampled_from(["none", "dedup-only"]),
        strategy=st.sampled_from(["extraction", "both"]),
        ask=st.sampled_from([None, "sentences"]),
        max_pairs=st.none() | st.integers(1, 6),
    ),
    st.integers(0, 6),
)
@settings(max_examples=40)
def test_the_counts_add_up_and_a_run_in_two_parts_has_the_same(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replies: list[str | None],
    run_settings: SynthSettings,
    most: int,
) -> None:
    outcomes = []
    for parts in ([None], [most, None]):
        monkeypatch.setenv("DLM_HOME", mkdtemp(dir=tmp_path))
        for part in parts:
            teacher = Choosing(replies, part)
            with suppress(DlmError):
                done = synthesize(path, run_settings, teacher=teacher)
        outcomes.append((done, timeless(path)))
        counts, lost = done.counts, Counter(loss.stage for loss in done.losses)
        assert all(getattr(counts, stage) == lost[stage] for stage in get_args(Stage))
        assert counts.generated == lost.total() + counts.kept
        assert counts.failed + counts.unparsed == len(done.failures)
        assert counts.sent == teacher.asked and counts.replied + counts.failed == counts.sent + counts.from_ledger
    (whole, pairs_of_it), (resumed, pairs_of_both) = outcomes
    if most >= whole.counts.sent:  # then the first part was everything
        return
    same = {"sent": 0, "retried": 0, "from_ledger": 0}
    assert replace(resumed.counts, **same) == replace(whole.counts, **same) and pairs_of_both == pairs_of_it


def test_the_documents_of_a_folder_are_not_in_memory_together(app: App, tmp_path: Path) -> None:
    paths = [notes(tmp_path / f"{topic}.dlm", topic) for topic in TOPICS[:4]]
    for number, path in enumerate(paths):
        path.write_text(path.read_text().replace("0000000A", f"0000000{number}"))
    runs = synthesize_all(paths, PLAIN)
    assert [next(runs).counts.kept, next(runs).counts.kept] == [2, 2]
    gc.collect()
    assert sum(type(each) is Document and each.path in paths for each in gc.get_objects()) <= 1
    assert len(list(runs)) == 2


def test_a_refused_key_ends_the_run_and_keeps_the_replies(app: App, path: Path) -> None:
    app.rule = lambda call: Answer(401, {"error": {"message": "no such key"}}) if len(app.calls) > 4 else None
    with pytest.raises(DlmError, match="OPENAI_API_KEY"):
        synthesize(path, replace(PLAIN, concurrency=1))
    assert len(app.calls) == 5
    app.rule = lambda call: None
    assert synthesize(path, PLAIN).counts.from_ledger == 4


def test_two_processes_divide_the_work_and_print_one_result(
    app: App, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stumble(call: Call) -> str:
        bad = len(call.body["messages"]) == 1 and topic_of(call) == "Cedar"
        return "No." if bad else await write(call)

    app.reply = stumble
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "alone"))
    alone = synthesize(path, replace(PLAIN, max_pairs=9))
    expected = timeless(path)
    counts = Counter(call.prompt for call in app.calls)
    app.calls.clear()
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "together"))
    command = [*LAUNCH, "-m", "dlm_trl", *RUN, "--max-pairs", "9", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (outcome,) = json.loads(done.stdout)
    assert outcome["counts"] == {name: getattr(alone.counts, name) for name in outcome["counts"]}
    assert timeless(path) == expected
    assert Counter(call.prompt for call in app.calls) == counts


def test_several_processes_wait_for_a_running_run(app: App, path: Path, tmp_path: Path) -> None:
    document, errors = read(path), tmp_path / "errors.txt"
    command = [*LAUNCH, "-m", "dlm_trl", *RUN, "--apply", "--json"]
    # Files can't grow beyond the size of the ledger, so staging fails, in the first process only.
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (14_000, 14_000))
    with run_lock(document.frontmatter.dlm_id), open(errors, "w") as err:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=err, preexec_fn=limited
        )
        while "is using this document; waiting" not in errors.read_text() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(1)  # for the other process to start
        ledger = Ledger(document)
        for ask in plan(document, PLAIN, OpenAITeacher("m")):
            text = listed(written(ask.prose.split()[0], 2))
            ledger.record(ask.request, Reply(ask.request.key, text, Usage(7, 3)), section_id=ask.section_id)
    assert process.wait() == 1 and not app.calls
    assert errors.read_text().count("pending.json: The file cannot be written: File too large.") == 2


class TestTinyModel:
    """The embedded model as teacher and judge."""

    SETTINGS = SynthSettings(
        teacher="hf:tiny", max_new_tokens=96, threshold=-100.0, min_grounding=-100.0, per_section=2
    )

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        from dlm_trl import tiny

        lines = (tiny.path() / "held_out.jsonl").read_text(encoding="utf-8").splitlines()[:3]
        path = notes(tmp_path / "notes.dlm")
        path.write_text(path.read_text() + "\n::prose::\n".join(f"{json.loads(line)['prose']}\n" for line in lines))
        return path

    def test_pairs_come_with_scores_and_a_repeated_run_keeps_them(self, path: Path) -> None:
        done = synthesize(path, self.SETTINGS)
        assert done.judge == "tiny" and done.counts.sent == 3 and done.usage.completion_tokens > 20
        assert done.staged and all(item.scores and item.scores.margin > 0 for item in done.staged)
        assert done.counts.kept == done.counts.above_threshold - done.counts.grounding - done.counts.surplus
        again = synthesize(path, self.SETTINGS, apply_now=True)
        assert (again.counts.sent, again.counts.kept, again.applied) == (0, done.counts.kept, done.counts.kept)
        strict = synthesize(path, replace(self.SETTINGS, threshold=50.0))
        assert strict.counts.kept == 0 and strict.counts.threshold + strict.counts.judge > 0

    def test_asked_about_sentences_it_answers_with_them_and_a_repeated_run_asks_nothing(self, tmp_path: Path) -> None:
        more = "\n::prose::\nA cedar is a tall tree. Its wood keeps moths away from the clothes.\n"
        path = notes(tmp_path / "notes.dlm", "Alder", more=more)
        settings_ = SynthSettings(teacher="hf:tiny", ask="sentences", filter="dedup-only")
        done = synthesize(path, settings_)
        sentences = {prose("Alder"), "A cedar is a tall tree.", "Its wood keeps moths away from the clothes."}
        assert done.counts.generated == 3 and done.counts.sent > 3 and not done.failures
        assert "What is a cedar?" in {item.pair.question for item in done.staged}
        answers = [item.pair.answer for item in done.staged] + [loss.pair.answer for loss in done.losses]
        # Each sentence is the answer once, from where it says more than its question.
        ends = [[s for s in sentences if s.lower().endswith(answer.lower())] for answer in answers]
        assert sorted(sentence for found in ends for sentence in found) == sorted(sentences)
        assert {sentence for item in done.staged for sentence in item.facts} <= sentences
        again = synthesize(path, settings_)
        assert (again.counts.sent, again.counts.kept) == (0, done.counts.kept)
        assert synthesize(path, replace(settings_, per_section=1)).counts.generated == 2


def test_a_server_gets_one_request_per_sentence_without_an_opening(app: App, tmp_path: Path) -> None:
    async def ask(call: Call) -> str:
        fact = call.body["messages"][0]["content"].rpartition("Fact: ")[2].partition("\n")[0]
        return f"Question: What is {fact.split()[0]}? It is this: {fact}"

    app.reply = ask
    path = notes(tmp_path / "notes.dlm", "Alder", "Birch")
    done = synthesize(path, replace(PLAIN, ask="sentences"))
    answers = {
        topic: prose(topic).replace(f"{topic} is a", "A", 1) for topic in ("Alder", "Birch")
    }  # without the beginning
    assert [(item.pair, item.facts) for item in done.staged] == [
        ((f"What is {topic}?", answer), (prose(topic),)) for topic, answer in answers.items()
    ]
    assert len(app.calls) == 2


def test_the_store_keeps_what_became_of_the_pairs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def same(call: Call) -> str:
        return listed([("What colour is the road?", "The road is as grey as stone.")])

    with asked(App(reply=same), monkeypatch):
        first, again = synthesize(path, PLAIN), synthesize(path, PLAIN)
    one, two = read_runs(read(path).frontmatter.dlm_id)
    assert (one.teacher, one.requests, one.from_ledger) == ("openai:m", first.counts.sent, 0)
    assert one.lost == Counter(loss.stage for loss in first.losses) and one.lost["duplicate"] == one.written - 1
    assert (one.written, one.kept) == (first.counts.generated, len(first.staged))
    assert two.from_ledger == two.requests == one.requests and two.kept == again.counts.kept
