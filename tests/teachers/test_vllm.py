"""`VllmTeacher` with several local servers, some of which are killed and restarted."""

import asyncio
import logging
import sys
from contextlib import ExitStack
from typing import Any

import pytest

from dlm_trl.notes import DlmError
from dlm_trl.teachers.protocol import Reply, Request
from dlm_trl.teachers.vllm import VllmTeacher
from tests.teachers.servers import Answer, App, Call, completion, free_port, process, serve

QUICK = {"max_retries": 0, "patience": 0.3, "probe_seconds": 0.2}


def requests(count: int, **settings: Any) -> list[Request]:
    return [Request(str(n), [{"role": "user", "content": str(n)}], **settings) for n in range(count)]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def model(name: str, length: int | None = None) -> dict[str, Any]:
    return {"id": name, "object": "model", "max_model_len": length}


def test_model_and_context_come_from_the_servers() -> None:
    first, second = App(models=[model("a", 4096), model("b")]), App(models=[model("b", 9), model("a", 2048)])
    with serve(first) as one, serve(second) as two:
        teacher = VllmTeacher([f"{one}/v1/", two])
        assert (teacher.revision, teacher.context) == ("a", 2048)
        assert teacher.reference == f"vllm-server:{one}/v1/,{two}"
        named = VllmTeacher([one, two], "b")
        assert (named.revision, named.context) == ("b", 9)
        assert named.reference.endswith("#b")
        assert {r.text for r in teacher.generate(requests(4))} == {f"re: {n}" for n in range(4)}
    assert {c.body["model"] for c in first.calls + second.calls} == {"a"}
    assert teacher.count_tokens([]) is None


def test_servers_of_different_models_are_refused() -> None:
    with serve(App(models=[model("a")])) as one, serve(App(models=[model("b")])) as two:
        with pytest.raises(DlmError, match=r"doesn't serve 'a'; it lists \['b'\]"):
            VllmTeacher([one, two])
        with serve(App(models=[])) as none, pytest.raises(DlmError, match="lists no model"):
            VllmTeacher([none])


def test_requests_are_balanced_within_each_servers_limit() -> None:
    def busy(seconds: float) -> App:
        app = App()

        async def answer(call: Call) -> str:
            for _ in range(3000):  # no answer before the limit is reached
                if app.most >= 4:
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(seconds)
            return call.prompt

        app.reply = answer
        return app

    apps = [busy(0.05), busy(0.05), busy(0.5)]
    with ExitStack() as stack:
        urls = [stack.enter_context(serve(app)) for app in apps]
        assert len(list(VllmTeacher(urls, concurrency=4).generate(requests(90)))) == 90
    fast, also_fast, slow = (len(app.calls) for app in apps)
    assert [app.most for app in apps] == [4, 4, 4]
    assert slow < min(fast, also_fast)


def test_few_requests_at_a_time_go_to_the_fast_servers() -> None:
    """As those of one document after the other do: a server that is ten times as slow would delay each of them."""
    fast, slow = App(), App(lambda call: Answer(wait=1.5))
    with serve(slow) as one, serve(fast) as two:
        teacher = VllmTeacher([one, two], concurrency=4)
        assert sum(len(list(teacher.generate(requests(3)))) for _ in range(12)) == 36
        assert 1 <= len(slow.calls) <= 6
        slow.rule = lambda call: None
        while len(slow.calls) < 12:  # it is tried again, and takes its share again
            assert len(list(teacher.generate(requests(30)))) == 30


def test_a_server_named_twice_counts_once() -> None:
    app = App(lambda call: Answer(wait=0.1))
    with serve(app) as url:
        assert len(list(VllmTeacher([url, f"{url}/", f"{url}/v1"], concurrency=2).generate(requests(12)))) == 12
    assert app.most == 2


def test_a_killed_server_is_removed_and_its_requests_go_to_the_others(caplog: pytest.LogCaptureFixture) -> None:
    with (
        process("--name", "a", "--wait", "30") as (one, child),
        process("--name", "b", "--wait", "0.02") as (two, _),
    ):
        teacher = VllmTeacher([one, two], concurrency=4, **QUICK)
        replies = teacher.generate(requests(60))
        first = next(replies)
        child.kill()  # with requests in flight, before any answer
        rest = list(replies)
    assert sorted(int(r.key) for r in [first, *rest]) == list(range(60))
    assert {r.text for r in [first, *rest]} == {"b"}
    (warning,) = warnings(caplog)
    assert one in warning and "is removed" in warning


def test_a_restarted_server_is_added_back(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    other = App(lambda call: Answer(wait=0.05))
    with serve(other) as two, ExitStack() as later:
        with process("--name", "a", "--wait", "0.05", port=port) as (one, _):
            teacher = VllmTeacher([one, two], concurrency=2, **QUICK)
            replies = teacher.generate(requests(2000))
            while next(replies).text != "a":
                pass
        while not any("is removed" in warning for warning in warnings(caplog)):
            next(replies)
        later.enter_context(process("--name", "again", port=port))
        while next(replies).text != "again":
            pass
        replies.close()
    out, back = warnings(caplog)
    assert "is removed" in out and "added back" in back


def test_the_run_ends_after_the_replies_if_all_servers_die() -> None:
    with process("--name", "a") as (one, first), process("--name", "b") as (two, second):
        teacher = VllmTeacher([one, two], concurrency=2, **QUICK)
        replies: list[Reply] = []
        with pytest.raises(DlmError) as caught:
            for reply in teacher.generate(requests(5000)):
                replies.append(reply)
                first.kill()
                second.kill()
    assert 1 <= len(replies) <= 5
    assert caught.value.kind == "TeacherError" and one in caught.value.message and two in caught.value.message


def test_a_dead_server_at_the_start_is_a_warning_and_all_dead_an_error(caplog: pytest.LogCaptureFixture) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    living = App(lambda call: Answer(wait=0.05))
    with serve(living) as url:
        teacher = VllmTeacher([dead, url], concurrency=3, **QUICK)
        assert len(list(teacher.generate(requests(20)))) == 20
        assert len(list(teacher.generate(requests(5)))) == 5
    assert living.most == 3  # its own limit, although the fleet has room for twice as many
    (warning,) = warnings(caplog)
    assert dead in warning
    with pytest.raises(DlmError, match=dead):
        VllmTeacher([dead], **QUICK)


def test_a_request_that_fails_on_healthy_servers_is_at_fault(caplog: pytest.LogCaptureFixture) -> None:
    def rule(call: Call) -> Answer | None:
        faults = [Answer(500, {}), Answer(body=completion("x" * 5000), cut=True), Answer(wait=30), Answer(body=b"{")]
        return faults[int(call.prompt)] if int(call.prompt) < len(faults) else None

    with serve(App(rule)) as one, serve(App(rule)) as two:
        replies = list(VllmTeacher([one, two], timeout=2.0, max_retries=0).generate(requests(12)))
    assert {r.key for r in replies if r.error} == {"0", "1", "2", "3"}
    assert len([r for r in replies if r.text]) == 8
    assert warnings(caplog) == []


def test_a_server_with_a_dead_engine_is_removed() -> None:
    sick, well = App(lambda call: Answer(500, {"error": "EngineDeadError"}), health=503), App()
    with serve(sick) as one, serve(well) as two:
        replies = list(VllmTeacher([one, two], concurrency=2, **QUICK).generate(requests(20)))
    assert {r.text for r in replies} == {f"re: {n}" for n in range(20)}
    assert len(sick.calls) <= 2


@pytest.mark.parametrize("status", [401, 404])
def test_a_server_that_rejects_every_request_is_removed_for_good(status: int, caplog: pytest.LogCaptureFixture) -> None:
    gone, well = App(lambda call: Answer(status, {"error": "no such model"})), App(lambda call: Answer(wait=0.1))
    with serve(gone) as one, serve(well) as two:
        replies = list(VllmTeacher([one, two], concurrency=2, **QUICK).generate(requests(20)))
        assert {r.text for r in replies} == {f"re: {n}" for n in range(20)}
        with pytest.raises(DlmError, match="no such model"):
            list(VllmTeacher([one], **QUICK).generate(requests(1)))
    (warning,) = warnings(caplog)
    assert one in warning and "no such model" in warning


def test_a_healthy_server_that_always_fails_does_not_attract_all_requests() -> None:
    sick, well = App(lambda call: Answer(500, {"error": "always"})), App(lambda call: Answer(wait=0.05))
    with serve(sick) as one, serve(well) as two:
        replies = list(VllmTeacher([one, two], concurrency=2, **QUICK).generate(requests(20)))
    assert {r.text for r in replies} == {f"re: {n}" for n in range(20)}


def test_the_key_comes_from_vllm_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not for others")
    app = App()
    with serve(app) as url:
        list(VllmTeacher([url]).generate(requests(1)))
        monkeypatch.setenv("VLLM_API_KEY", "ours")
        list(VllmTeacher([url]).generate(requests(1)))
    assert [c.headers["authorization"] for c in app.calls] == ["Bearer EMPTY", "Bearer ours"]


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "http://", "http://user:word@host:8000", "ftp://host", "", "http://host:80a", "http://[::1"],
)
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(DlmError, match="http://host:port") as caught:
        VllmTeacher([url])
    assert caught.value.kind == "UsageError" and "word" not in str(caught.value)


def test_a_missing_package_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(DlmError, match=r"pip install .*\[openai\]"):
        VllmTeacher(["http://localhost:1"])
