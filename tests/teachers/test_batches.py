"""Batches of both providers, with the real SDKs and a local server that has their batch APIs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dlm_trl.notes import DlmError
from dlm_trl.notes.errors import TeacherError
from dlm_trl.teachers.anthropic import AnthropicTeacher
from dlm_trl.teachers.batches import BatchState, BatchTeacher, Result
from dlm_trl.teachers.openai import OpenAITeacher
from dlm_trl.teachers.protocol import Request, Usage
from dlm_trl.teachers.remote import NO_ROOM
from tests.teachers.batch_server import BatchApp
from tests.teachers.servers import Answer, Call, completion, message, serve

KEY = "sk-very-secret"
SCHEMA = {"type": "object", "properties": {"pairs": {"type": "array"}}, "required": ["pairs"]}
PROVIDERS = ("openai", "anthropic")
providers = pytest.mark.parametrize("provider", PROVIDERS)


def requests(*prompts: str, **settings: Any) -> list[Request]:
    conversation = [{"role": "system", "content": "Be brief."}]
    return [Request(key_of(p), [*conversation, {"role": "user", "content": p}], **settings) for p in prompts]


def key_of(prompt: str) -> str:
    """An id that the providers accept."""
    return prompt.encode().hex()[:64]


def failed(provider: str, status: int, text: str, kind: str = "api_error") -> Answer:
    """An error as a provider words it."""
    error = {"message": text} if provider == "openai" else {"type": kind, "message": text}
    return Answer(status, {"error": error} if provider == "openai" else {"type": "error", "error": error})


@contextmanager
def teaching(provider: str, app: BatchApp) -> Iterator[BatchTeacher]:
    with serve(app) as url:
        if provider == "openai":
            yield OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        else:
            yield AnthropicTeacher("m", base_url=url, api_key=KEY, max_retries=0)


def collected(teacher: BatchTeacher, *prompts: str, **settings: Any) -> dict[str, Result]:
    """The results of a batch, by prompt."""
    batch_id = teacher.submit(requests(*prompts, **settings), "label")
    states = [teacher.poll(batch_id), teacher.poll(batch_id)]
    assert [state and state.has_ended for state in states] == [False, True]
    return {bytes.fromhex(result.reply.key).decode(): result for result in teacher.collect(batch_id)}


@providers
def test_a_batch_has_the_requests_that_would_be_sent_one_by_one(provider: str) -> None:
    app = BatchApp()
    settings = {"max_new_tokens": 9, "temperature": 0.7, "top_p": 0.9, "seed": 3, "schema": SCHEMA}
    with teaching(provider, app) as teacher:
        one_by_one = {r.key: (r.text, r.usage) for r in teacher.generate(requests("a", "b\u2028ü", **settings))}
        batch_id = teacher.submit(requests("a", "b\u2028ü", **settings), "label")
        assert teacher.poll(batch_id) == BatchState(0, 2)
        assert teacher.poll(batch_id) == BatchState(2, 2, has_ended=True)
        results = list(teacher.collect(batch_id))
    assert [result.reply.key for result in results] == [key_of("b\u2028ü"), key_of("a")]  # the server's order
    assert {r.reply.key: (r.reply.text, r.reply.usage) for r in results} == one_by_one
    assert not any(result.reply.error or result.may_repeat for result in results)
    sent = sorted((call.body for call in app.calls), key=lambda body: body["messages"][-1]["content"])
    assert list(app.batches[0].entries.values()) == sent and len(sent) == 2


@providers
def test_each_way_to_fail_has_its_reason_and_may_be_repeated_or_not(provider: str) -> None:
    server = {"down": (500, "api_error"), "busy": (529, "overloaded_error"), "often": (429, "rate_limit_error")}
    thought = completion("", completion_tokens=9) if provider == "openai" else message("", "max_tokens")
    if provider == "openai":
        thought["choices"][0]["finish_reason"] = "length"
    fates: dict[str, Any] = {
        **{prompt: failed(provider, status, f"it is {prompt}", kind) for prompt, (status, kind) in server.items()},
        "bad": failed(provider, 400, f"it is bad, says {KEY}", "invalid_request_error"),
        "long": failed(provider, 400, "prompt is too long: 9 tokens", "invalid_request_error"),
        "thinks": Answer(200, thought),
        "garbage": Answer(200, {"content": 3}),
        "waste": Answer(200, [3]),
        "late": "expired",
        "stopped": "cancelled",
        "lost": "lost",
    }
    with teaching(provider, BatchApp(fate=lambda call: fates.get(call.prompt))) as teacher:
        results = collected(teacher, "good", *fates)
    errors = {prompt: result.reply.error for prompt, result in results.items()}
    good = results["good"].reply
    assert errors.pop("good") is None and (good.text, good.usage) == ("re: good", Usage(7, 3))
    assert "lost" not in errors
    repeatable = {prompt for prompt, result in results.items() if result.may_repeat}
    assert repeatable == {"down", "busy", "often", "late"}
    assert all(f"it is {prompt}" in str(errors[prompt]) for prompt in ("bad", *server))
    assert KEY not in str(errors) and all(errors.values())
    assert [prompt for prompt, result in results.items() if result.reply.is_too_long] == ["long"]
    assert errors["thinks"] == NO_ROOM and results["thinks"].reply.usage.completion_tokens > 0
    assert "expire" in str(errors["late"]) and "cancelled" in str(errors["stopped"])


@providers
def test_requests_are_divided_by_number_and_size(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = BatchApp(max_requests=3)
    with teaching(provider, app) as teacher:
        monkeypatch.setattr(type(teacher), "max_requests", 3)
        prompts = [*"abcdefg", "h" * 3000]
        parts = teacher.parts(requests(*prompts))
        assert [len(part) for part in parts] == [3, 3, 2]
        assert [request for part in parts for request in part] == requests(*prompts)
        for part in parts:
            teacher.submit(part, "label")
        with pytest.raises(DlmError, match="too many"):
            teacher.submit(requests(*prompts), "label")
        monkeypatch.setattr(type(teacher), "max_bytes", 3000)
        assert [len(part) for part in teacher.parts(requests(*prompts))] == [3, 3, 1, 1]
        assert teacher.parts([]) == []
    assert len(app.batches) == 3


def test_a_part_is_within_the_limit_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    app = BatchApp()
    with teaching("openai", app) as teacher:
        monkeypatch.setattr(type(teacher), "max_bytes", 20_000)
        for part in teacher.parts(requests(*(f"{n} ü\u2028" * n for n in range(1, 60)))):
            teacher.submit(part, "label")
    sizes = [len(content) for content in app.files.values()]
    assert len(sizes) > 2 and max(sizes) <= 20_000 and min(sizes[:-1]) > 18_000


@providers
def test_a_server_without_batches_is_refused_by_name(provider: str) -> None:
    with teaching(provider, BatchApp()) as teacher:
        teacher.check_batches()
    error = rf"{provider}:m can't be asked in batches: http://127.*no batch API"
    with teaching(provider, BatchApp(has_batches=False)) as teacher, pytest.raises(TeacherError, match=error):
        teacher.check_batches()


@providers
def test_no_response_to_the_check_breaks_it(provider: str) -> None:
    app = BatchApp()
    with teaching(provider, app) as teacher:
        for body in (b"<html>hello</html>", b"[]", b'{"data": null}', b"{}", b'"x"', b""):
            app._listed = lambda *_, body=body: Answer(200, body)  # type: ignore[misc]
            with pytest.raises(TeacherError):
                teacher.check_batches()


def test_a_trial_drops_what_the_model_does_not_support_before_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    def rule(call: Call) -> Answer | None:
        for name in ("max_tokens", "temperature"):
            if name in call.body:
                return failed("openai", 400, f"Unsupported parameter: '{name}' is not supported with this model.")
        return None

    app = BatchApp(rule)
    with teaching("openai", app) as teacher:
        asked = requests("a", "b", schema=SCHEMA, max_new_tokens=9)
        teacher.settle(asked[0])
        teacher.settle(asked[1])
        teacher.submit(asked, "label")
    assert len(app.calls) == 3  # the trial, twice refused
    assert len(app.calls[-1].body["messages"]) == 1 and app.calls[-1].prompt != "a"
    bodies = app.batches[0].entries.values()
    wanted = {"model", "messages", "max_completion_tokens", "response_format"}
    assert [set(body) for body in bodies] == [wanted, wanted] and set(app.calls[-1].body) == wanted
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 2


@providers
def test_a_rejected_trial_is_an_error(provider: str) -> None:
    app = BatchApp()
    with teaching(provider, app) as teacher:
        for status, text in ((401, "no such key"), (404, "no such model"), (400, "odd"), (500, "ill")):
            app.rule = lambda call, status=status, text=text: failed(provider, status, text)  # type: ignore[misc]
            with pytest.raises(TeacherError, match=text):
                teacher.settle(requests("a")[0])


def test_a_trial_without_text_is_accepted() -> None:
    app = BatchApp(lambda call: Answer(200, message("", "max_tokens")))
    with teaching("anthropic", app) as teacher:
        teacher.settle(requests("a")[0])
        teacher.settle(requests("a")[0])
    assert len(app.calls) == 1


@providers
def test_a_batch_is_found_whose_id_was_never_received(provider: str) -> None:
    app = BatchApp()
    now = datetime.now(UTC)
    with teaching(provider, app) as teacher:
        assert teacher.find("mine", now, 2) == []
        for label, prompts in (
            ("other", "xyz"),
            ("mine", "ab"),
            ("another", "cde"),
            ("others", "uvw"),
            ("last", "rst"),
        ):
            teacher.submit(requests(*prompts), label)
        app.batches[0].created -= 7200
        assert teacher.find("mine", now, 2) == ["batch_1"]
        assert teacher.find("other", now, 3) == ([] if provider == "openai" else ["batch_4", "batch_3", "batch_2"])
        assert teacher.find("mine", now + timedelta(hours=2), 2) == []


@providers
def test_a_submission_is_sent_once_whatever_the_answer(provider: str) -> None:
    app = BatchApp(refusal=failed(provider, 500, "ill"))
    with serve(app) as url:
        where = {"base_url": f"{url}/v1" if provider == "openai" else url, "api_key": KEY}
        teacher = OpenAITeacher("m", **where) if provider == "openai" else AnthropicTeacher("m", **where)
        with pytest.raises(TeacherError, match=r"ill.*looks for the batch before it submits"):
            teacher.submit(requests("a"), "label")
    assert len(app.batches) == 1


@providers
def test_an_outage_is_waited_out_and_a_batch_that_is_gone_is_not(
    provider: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = BatchApp()
    with teaching(provider, app) as teacher:
        batch_id = teacher.submit(requests("a"), "label")
        app.out = 1
        assert teacher.poll(batch_id) is None and "overloaded" in caplog.text
        assert teacher.poll(batch_id) == BatchState(0, 1)
        app.batches.clear()
        with pytest.raises(TeacherError, match=f"{provider}:m has no results of the batch {batch_id}"):
            teacher.poll(batch_id)
    with pytest.raises(DlmError, match="Connection error"):  # the server has ended, so it can't be listed
        teacher.check_batches()


def test_a_batch_that_the_server_refuses_as_a_whole_says_why() -> None:
    app = BatchApp()
    with teaching("openai", app) as teacher:
        batch_id = teacher.submit(requests("a"), "label")
        app.batches[0].problem = "Enqueued token limit reached."
        state = teacher.poll(batch_id)
        app.batches[0].code = "empty_file"
        other = teacher.poll(batch_id)
    problem = "Enqueued token limit reached."
    assert state == BatchState(0, 0, True, problem=f"token_limit_exceeded: {problem}", is_too_large=True)
    assert other == BatchState(0, 0, True, problem=f"empty_file: {problem}")
