"""`AnthropicTeacher` with the real SDK and a local server that fails on demand."""

import logging
import sys
from typing import Any

import pytest

from dlm_trl.notes import DlmError
from dlm_trl.teachers.anthropic import AnthropicTeacher
from dlm_trl.teachers.protocol import Reply, Request, Usage
from tests.teachers.servers import Answer, App, Call, message, serve

KEY = "sk-ant-very-secret"
SCHEMA = {
    "type": "array",
    "items": {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]},
}


def requests(*prompts: str, **settings: Any) -> list[Request]:
    conversation = [{"role": "system", "content": "Be brief."}]
    return [Request(f"key {p}", [*conversation, {"role": "user", "content": p}], **settings) for p in prompts]


def ask(app: App, *prompts: str, **arguments: Any) -> dict[str, Reply]:
    """The replies of one run, by prompt."""
    settings = arguments.pop("settings", {})
    with serve(app) as url:
        teacher = AnthropicTeacher("m", base_url=url, api_key=KEY, **arguments)
        return {r.key.removeprefix("key "): r for r in teacher.generate(requests(*prompts, **settings))}


def test_replies_usage_and_the_request_as_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    app = App()
    with serve(app) as url:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        teacher = AnthropicTeacher("m")
        replies = list(teacher.generate(requests(*"abc", max_new_tokens=9, temperature=0.0, top_p=0.9, seed=3)))
        assert len(list(teacher.generate(requests("d")))) == 1
    assert {(r.key, r.text, r.usage, r.error) for r in replies} == {
        (f"key {p}", f"re: {p}", Usage(7, 3), None) for p in "abc"
    }
    assert (teacher.reference, teacher.revision, teacher.context) == ("anthropic:m", "m", None)
    body = next(c.body for c in app.calls if c.prompt == "a")
    turn = {"role": "user", "content": "a"}
    assert body == {"model": "m", "max_tokens": 9, "system": "Be brief.", "messages": [turn]}
    assert app.calls[0].headers["authorization"] == f"Bearer {KEY}"
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and "temperature" in warnings[0]


def test_transient_errors_are_retried_within_the_concurrency_limit() -> None:
    def rule(call: Call) -> Answer | None:
        if call.attempt > 1:
            return Answer(wait=0.05)
        number = int(call.prompt)
        limited = Answer(429, {"type": "error", "error": {"message": "slow"}}, {"retry-after": "1.5"})
        cut = Answer(body=message("x" * 5000), cut=True)
        return [None, Answer(529, {}), limited, cut, Answer(wait=30)][number % 5]

    app = App(rule)
    replies = ask(app, *map(str, range(20)), concurrency=4, timeout=1.0)
    assert {p: r.text for p, r in replies.items()} == {str(n): f"re: {n}" for n in range(20)}
    assert app.most <= 4
    first, second = (c.at for c in app.calls if c.prompt == "2")
    assert second - first >= 1.5  # without the header the SDK waits at most half a second


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Answer(500, {"type": "error", "error": {"message": "out\nof order"}}), "out"),
        (Answer(body=message("x" * 5000), cut=True), "Connection error"),
        (Answer(400, {"type": "error", "error": {"message": f"too long, {KEY}"}}), "too long, …"),
        (Answer(body=b'{"content": [{"te'), "JSONDecodeError"),
        (Answer(body=b"[]"), "not a message"),
        (Answer(body={"error": "overloaded"}), "overloaded"),
    ],
)
def test_a_lasting_error_becomes_a_reply_with_an_error(fault: Answer, expected: str) -> None:
    app = App(lambda call: fault if call.prompt == "bad" else None)
    with serve(app) as url:
        teacher = AnthropicTeacher("m", base_url=url, api_key=KEY, max_retries=0)
        assert [r.text for r in teacher.generate(requests("good"))] == ["re: good"]
        replies = {r.key.removeprefix("key "): r for r in teacher.generate(requests("bad", "good"))}
    assert replies["good"].text == "re: good"
    bad = replies["bad"]
    assert (bad.text, bad.usage) == ("", Usage())
    assert bad.error and expected in bad.error
    assert "\n" not in bad.error and len(bad.error) <= 300 and KEY not in bad.error


@pytest.mark.parametrize(("reason", "expected"), [("refusal", "refused"), ("max_tokens", "--max-new-tokens")])
def test_a_reply_without_text_has_a_reason_and_usage(reason: str, expected: str) -> None:
    reply = ask(App(lambda call: Answer(body=message("", stop_reason=reason))), "a")["a"]
    assert (reply.text, reply.usage) == ("", Usage(7, 3))
    assert expected in (reply.error or "")


@pytest.mark.parametrize("status", [401, 404])
def test_a_fatal_error_ends_the_run(status: int) -> None:
    app = App(lambda call: Answer(status, {"type": "error", "error": {"message": f"no: {KEY}"}}))
    with pytest.raises(DlmError) as caught:
        ask(app, *map(str, range(50)), concurrency=2)
    assert caught.value.kind == "TeacherError" and caught.value.hint and KEY not in str(caught.value)
    assert len(app.calls) <= 2


def test_a_schema_is_structured_output_if_supported(caplog: pytest.LogCaptureFixture) -> None:
    def rule(call: Call) -> Answer | None:
        if "output_config" not in call.body or call.body["model"] == "new":
            return None
        text = "This model does not support structured outputs."
        return Answer(400, {"type": "error", "error": {"type": "invalid_request_error", "message": text}})

    app = App(rule)
    with serve(app) as url:
        for model in ("new", "old"):
            teacher = AnthropicTeacher(model, base_url=url, api_key=KEY)
            assert [r.text for r in teacher.generate(requests("a", "b", schema=SCHEMA)) if r.text] != []
    new, old = (c.body for c in (app.calls[0], app.calls[-1]))
    form = new["output_config"]["format"]
    assert form["type"] == "json_schema" and form["schema"]["properties"]["pairs"]["type"] == "array"
    assert "output_config" not in old
    assert sum("output_config" in r.getMessage() for r in caplog.records if r.levelno == logging.WARNING) == 1


def test_a_missing_key_or_package_is_reported_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DlmError, match="ANTHROPIC_API_KEY"):
        AnthropicTeacher("m")
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(DlmError, match=r"pip install .*\[anthropic\]"):
        AnthropicTeacher("m", api_key=KEY)
