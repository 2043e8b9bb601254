"""`OpenAITeacher` with the real SDK and a local server that fails on demand."""

import json
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlm_trl.notes import DlmError
from dlm_trl.teachers.openai import OpenAITeacher
from dlm_trl.teachers.protocol import Reply, Request, Usage
from tests.teachers.servers import Answer, App, Call, completion, free_port, serve

KEY = "sk-very-secret"


def requests(*prompts: str, **settings: Any) -> list[Request]:
    return [Request(f"key {p}", [{"role": "user", "content": p}], **settings) for p in prompts]


def ask(app: App, *prompts: str, **arguments: Any) -> dict[str, Reply]:
    """The replies of one run, by prompt."""
    settings = arguments.pop("settings", {})
    with serve(app) as url:
        teacher = OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY, **arguments)
        return {r.key.removeprefix("key "): r for r in teacher.generate(requests(*prompts, **settings))}


def once(answer: Answer) -> Callable[[Call], Answer | None]:
    """Fails like this at the first attempt of each prompt."""
    return lambda call: answer if call.attempt == 1 else None


def test_replies_usage_and_the_request_as_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    app = App()
    with serve(app) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        teacher = OpenAITeacher("m")
        asked = requests(*"abcde", max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3)
        replies = list(teacher.generate(asked))
        assert {(r.key, r.text, r.usage, r.error) for r in replies} == {
            (f"key {p}", f"re: {p}", Usage(7, 3), None) for p in "abcde"
        }
        assert all(r.seconds > 0 for r in replies)
        assert list(teacher.generate([])) == []
    assert (teacher.reference, teacher.revision, teacher.context) == ("openai:m", "m", None)
    assert teacher.count_tokens([{"role": "user", "content": "x"}]) is None
    body = next(c.body for c in app.calls if c.prompt == "a")
    expected = {"model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 3}
    assert body == expected | {"messages": [{"role": "user", "content": "a"}]}
    assert app.calls[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_concurrency_limit_is_reached_and_kept() -> None:
    app = App(lambda call: Answer(wait=0.1))
    assert len(ask(app, *map(str, range(40)), concurrency=8)) == 40
    assert app.most == 8


def test_retry_after_is_honoured() -> None:
    app = App(once(Answer(429, {"error": {"message": "slow down"}}, {"retry-after": "1.5"})))
    assert ask(app, "a")["a"].text == "re: a"
    first, second = (c.at for c in app.calls)
    assert second - first >= 1.5  # without the header the SDK waits at most half a second


@pytest.mark.parametrize("fault", [Answer(500, {}), Answer(body=completion("x" * 5000), cut=True), Answer(wait=30)])
def test_a_transient_error_is_retried(fault: Answer) -> None:
    app = App(once(fault))
    replies = ask(app, "a", "b", timeout=2.0)
    assert {p: r.text for p, r in replies.items()} == {"a": "re: a", "b": "re: b"}
    assert len(app.calls) == 4


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Answer(500, {"error": {"message": "out\nof order"}}), "out"),
        (Answer(503, b"<html>down</html>", {"content-type": "text/html"}), "503"),
        (Answer(body=completion("x" * 5000), cut=True), "Connection error"),
        (Answer(wait=30), "timed out"),
        (Answer(400, {"error": {"message": f"no such thing, {KEY}"}}), "no such thing, …"),
        (Answer(400, {"error": f"too long, {KEY}"}), "too long, …"),
        (Answer(422, {"detail": [{"loc": ["body", "messages"], "msg": "too long"}]}), "too long"),
        (Answer(400, b"too long", {"content-type": "text/plain"}), "too long"),
        (Answer(body=b'{"choices": [{"mess'), "JSONDecodeError"),
        (Answer(body=b'"text"'), "not a chat completion"),
        (Answer(body={"error": {"message": "overloaded"}}), "overloaded"),
        (Answer(body=completion(None) | {"choices": []}), "not a chat completion"),
    ],
)
def test_a_lasting_error_becomes_a_reply_with_an_error(fault: Answer, expected: str) -> None:
    app = App(lambda call: fault if call.prompt == "bad" else None)
    with serve(app) as url:
        teacher = OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY, timeout=1.0, max_retries=1)
        assert [r.text for r in teacher.generate(requests("good"))] == ["re: good"]
        replies = {r.key.removeprefix("key "): r for r in teacher.generate(requests("bad", "good", "fine"))}
    assert replies["good"].text == "re: good" and replies["fine"].text == "re: fine"
    bad = replies["bad"]
    assert (bad.text, bad.usage) == ("", Usage())
    assert bad.error and expected in bad.error
    assert "\n" not in bad.error and len(bad.error) <= 300 and KEY not in bad.error


def reply_with(content: dict[str, Any], finish_reason: str = "stop", **others: Any) -> Answer:
    message = {"role": "assistant", **content}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    return Answer(body=completion(None) | {"choices": [choice]} | others)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply_with({"content": None, "refusal": "not that"}), "refused to answer: not that"),
        (reply_with({"content": None, "reasoning_content": "Hm"}, "length"), "--max-new-tokens"),
        (reply_with({"content": ""}, "content_filter"), "content filter"),
    ],
)
def test_a_reply_without_text_has_a_reason_and_usage(answer: Answer, expected: str) -> None:
    reply = ask(App(lambda call: answer), "a")["a"]
    assert (reply.text, reply.usage) == ("", Usage(7, 3))
    assert expected in (reply.error or "")


def test_reasoning_parts_are_dropped() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "on"}, {"type": "text", "text": "e"}]
    reply = ask(App(lambda call: reply_with({"content": parts})), "a")["a"]
    assert (reply.text, reply.usage, reply.error) == ("one", Usage(7, 3), None)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 5}, {"prompt_tokens": "5", "completion_tokens": "x"}, {"prompt_tokens": -1}]
)
def test_an_incomplete_usage_counts_as_none(usage: Any) -> None:
    reply = ask(App(lambda call: reply_with({"content": "one"}, usage=usage)), "a")["a"]
    assert (reply.text, reply.usage, reply.error) == ("one", Usage(), None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def garbage() -> Any:
    bodies: list[bytes] = []
    with serve(App(lambda call: Answer(body=bodies[-1]))) as url:
        yield OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY, max_retries=0), bodies


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@example(body=b'{"choices": {}}')
@example(body=b"[" * 200_000)
@example(
    body=b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 1e400, "completion_tokens": 1}}'
)
@example(body=b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "many"}}')
@given(body=st.binary(max_size=30) | JSON.map(lambda v: json.dumps(v).encode()))
def test_no_response_body_breaks_the_run(garbage: Any, body: bytes) -> None:
    teacher, bodies = garbage
    bodies.append(body)
    (reply,) = teacher.generate(requests("a"))
    assert reply.error is None or "\n" not in reply.error
    assert isinstance(reply.text, str)
    assert {type(n) for n in (reply.usage.prompt_tokens, reply.usage.completion_tokens)} == {int}


def refusing(*names: str) -> Callable[[Call], Answer | None]:
    """A reasoning model that rejects parameters like OpenAI's servers."""

    def rule(call: Call) -> Answer | None:
        name = next((n for n in names if n in call.body), None)
        if name is None:
            return None
        instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
        text = f"Unsupported parameter: '{name}' is not supported with this model.{instead}"
        return Answer(400, {"error": {"message": text, "param": name, "code": "unsupported_parameter"}})

    return rule


def test_unsupported_parameters_are_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    names = ("temperature", "top_p", "max_tokens", "seed", "response_format")
    app = App(refusing(*names))
    wishes = {"max_new_tokens": 9, "top_p": 0.5, "seed": 1, "schema": {"type": "array"}}
    with serve(app) as url:
        teacher = OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY)
        assert len([r for r in teacher.generate(requests(*"abcdefgh", **wishes)) if r.error is None]) == 8
        asked = len(app.calls)
        assert [r.text for r in teacher.generate(requests("later", **wishes))] == ["re: later"]
    assert len(app.calls) == asked + 1
    assert app.calls[-1].body.keys() == {"model", "messages", "max_completion_tokens"}
    assert app.calls[-1].body["max_completion_tokens"] == 9
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == len(names)
    assert all(any(name in w for w in warnings) for name in names)


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("response_format", 400, {"error": {"message": "This response_format type is unavailable now"}}),
        ("temperature", 400, {"error": {"message": "invalid temperature: only 1 is allowed for this model"}}),
        ("seed", 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 1}]}),
        ("seed", 422, {"message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}}),
    ],
)
def test_unsupported_parameters_of_other_servers(name: str, status: int, body: dict[str, Any]) -> None:
    app = App(lambda call: Answer(status, body) if name in call.body else None)
    settings = {"top_p": 0.5, "seed": 1, "schema": {"type": "array"}}
    assert ask(app, "a", settings=settings)["a"].text == "re: a"
    assert app.calls[0].body.keys() - app.calls[1].body.keys() == {name}


GEMINI = "Invalid JSON payload received. Unknown name \"additionalProperties\" at 'generation_config.response_schema'"


@pytest.mark.parametrize("message", [GEMINI, "parse: error parsing grammar: unknown rule", "Bad Request"])
@pytest.mark.parametrize("name", ["response_format", "top_p"])
def test_a_parameter_that_the_error_does_not_name_is_found_by_leaving_it_out(name: str, message: str) -> None:
    app = App(lambda call: Answer(400, [{"error": {"message": message}}]) if name in call.body else None)
    settings = {"top_p": 0.5, "seed": 1, "schema": {"type": "array"}}
    replies = ask(app, *"abcdefgh", settings=settings)
    assert {prompt: reply.text for prompt, reply in replies.items()} == {p: f"re: {p}" for p in "abcdefgh"}
    accepted = [call for call in app.calls if name not in call.body]
    assert all(call.body.keys() == app.calls[0].body.keys() - {name} for call in accepted)
    # Each request is rejected at most once, and one of them is tried without each parameter in turn.
    assert len(app.calls) <= 16 + 5
    assert len(accepted) == 8  # no answer is thrown away


def test_a_parameter_is_found_with_a_request_that_is_also_too_long() -> None:
    def rule(call: Call) -> Answer | None:
        if "response_format" in call.body:
            return Answer(400, {"error": {"message": "Bad grammar"}})
        return Answer(400, {"error": {"message": "prompt is too long"}}) if call.prompt == "long" else None

    replies = ask(App(rule), "long", "a", settings={"schema": {"type": "array"}}, concurrency=1)
    assert replies["long"].is_too_long and replies["a"].text == "re: a"


def test_several_parameters_that_no_error_names_are_left_out_together() -> None:
    names = {"response_format", "seed"}
    app = App(lambda call: Answer(400, {"error": {"message": "Bad Request"}}) if names & call.body.keys() else None)
    assert ask(app, "a", settings={"top_p": 0.5, "seed": 1, "schema": {"type": "array"}})["a"].text == "re: a"


def test_a_request_that_is_itself_at_fault_is_searched_once() -> None:
    app = App(lambda call: Answer(400, {"error": {"message": "Bad Request"}}))
    replies = ask(app, *"abcdefgh", settings={"schema": {"type": "array"}})
    assert all("Bad Request" in (reply.error or "") for reply in replies.values())
    assert len(app.calls) == 8 + 4  # without temperature, response_format, max_tokens, and all three


def test_a_request_is_at_fault_once_the_server_has_accepted_another() -> None:
    app = App(lambda call: Answer(400, {"error": {"message": "Bad Request"}}) if call.prompt == "b" else None)
    with serve(app) as url:
        teacher = OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY)
        asked = [reply.error for prompt in "ab" for reply in teacher.generate(requests(prompt))]
    assert asked[0] is None and "Bad Request" in (asked[1] or "")
    assert len(app.calls) == 2


@pytest.mark.parametrize("error", [{"message": "slow down", "code": 429}, {"message": "Overloaded"}, "overloaded"])
def test_an_error_with_status_200_is_retried(error: Any) -> None:
    app = App(once(Answer(body={"error": error})))
    assert ask(app, "a")["a"].text == "re: a"
    assert len(app.calls) == 2


def test_an_error_with_status_200_is_reported_with_its_message() -> None:
    error = {"message": "Provider returned error", "code": 429, "metadata": {"raw": "rate-limited upstream"}}
    reply = ask(App(lambda call: Answer(body={"error": error, "user_id": "u" * 300})), "a", max_retries=0)["a"]
    assert reply.error and reply.error.startswith("RateLimitError") and "Provider returned error" in reply.error


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_reply_that_a_server_takes_for_reasoning_is_read(name: str) -> None:
    reply = ask(App(lambda call: reply_with({"content": None, name: "one"})), "a")["a"]
    assert (reply.text, reply.error) == ("one", None)


@pytest.mark.parametrize(("finish_reason", "is_truncated"), [("length", True), ("stop", False)])
def test_a_reply_that_ends_at_the_limit_is_marked(finish_reason: str, is_truncated: bool) -> None:
    reply = ask(App(lambda call: reply_with({"content": "one"}, finish_reason)), "a")["a"]
    assert (reply.text, reply.is_truncated) == ("one", is_truncated)


@pytest.mark.parametrize(
    "message",
    [
        "request (4950 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 4950 tokens.",
        "prompt is too long: 4950 tokens > 4096 maximum",
        "Trying to keep the first 4950 tokens when context the overflows: the model's context window is 4096",
    ],
)
def test_a_prompt_that_exceeds_the_context_is_marked(message: str) -> None:
    app = App(lambda call: Answer(400, {"error": {"message": message}}))
    reply = ask(app, "a", settings={"schema": {"type": "array"}})["a"]
    assert reply.is_too_long and len(app.calls) == 1


def test_a_wrong_address_is_suspected_for_an_unknown_path() -> None:
    with pytest.raises(DlmError) as caught:
        ask(App(lambda call: Answer(404, {"detail": "Not Found"})), "a")
    assert "OPENAI_BASE_URL" in (caught.value.hint or "") and "/v1" in (caught.value.hint or "")


def test_a_value_out_of_range_is_not_unsupported() -> None:
    text = "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096."
    app = App(lambda call: Answer(400, {"error": {"message": text}}))
    assert "too large" in (ask(app, "a")["a"].error or "")
    assert len(app.calls) == 1


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_fatal_error_ends_the_run(status: int) -> None:
    app = App(lambda call: Answer(status, {"error": {"message": f"no: {KEY}"}}) if call.prompt != "0" else None)
    replies: list[Reply] = []
    with serve(app) as url:
        teacher = OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY, concurrency=2)
        with pytest.raises(DlmError) as caught:
            for reply in teacher.generate(requests(*map(str, range(50)))):
                replies.append(reply)
    assert caught.value.kind == "TeacherError" and caught.value.hint and KEY not in str(caught.value)
    assert [r.text for r in replies] == ["re: 0"]
    assert len(app.calls) <= 4


def test_an_empty_account_ends_the_run() -> None:
    app = App(lambda call: Answer(429, {"error": {"message": "pay", "code": "insufficient_quota"}}))
    with pytest.raises(DlmError, match="pay"):
        ask(app, *"abc", max_retries=0)


def test_an_unreachable_server_ends_the_run() -> None:
    teacher = OpenAITeacher("m", base_url=f"http://127.0.0.1:{free_port()}/v1", api_key=KEY, max_retries=0)
    with pytest.raises(DlmError, match="Connection error"):
        list(teacher.generate(requests("a", "b")))


@pytest.mark.parametrize(
    ("url", "variable", "value", "expected"),
    [
        ("http://localhost:80a/v1", None, "", "Invalid port"),
        ("http://localhost:99999/v1", None, "", "out of range"),
        ("http://localhost/v1", "ALL_PROXY", "socks5://127.0.0.1:1", "socks"),
        ("http://localhost/v1", "ALL_PROXY", "other://127.0.0.1:1", "Unknown scheme"),
        ("http://localhost/v1", "SSL_CERT_FILE", "/nowhere", "No such file"),
    ],
)
def test_an_unusable_url_or_environment_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, url: str, variable: str | None, value: str, expected: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, value)
    monkeypatch.setitem(sys.modules, "socksio", None)
    teacher = OpenAITeacher("m", base_url=url, api_key=KEY)
    with pytest.raises(DlmError, match=expected) as caught:
        list(teacher.generate(requests("a")))
    assert caught.value.kind == "TeacherError" and caught.value.hint


def test_closing_early_cancels_requests_in_flight() -> None:
    app = App(lambda call: None if call.prompt == "0" else Answer(wait=30))
    with serve(app) as url:
        teacher = OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY, concurrency=4)
        with closing(teacher.generate(requests(*map(str, range(50))))) as replies:
            assert next(replies).text == "re: 0"
        while app.now:  # the server notices a moment later
            threading.Event().wait(0.01)
    assert len(app.calls) <= 5
    assert app.left == len(app.calls) - 1
    assert not [t for t in threading.enumerate() if "portal" in t.name]


def test_no_requests_are_sent_while_replies_are_not_consumed() -> None:
    app = App()
    with serve(app) as url:
        teacher = OpenAITeacher("m", base_url=f"{url}/v1", api_key=KEY, concurrency=3)
        with closing(teacher.generate(requests(*map(str, range(50))))) as replies:
            next(replies)
            while len(app.calls) < 4 or app.now:
                threading.Event().wait(0.01)
            threading.Event().wait(0.3)  # any further request would have arrived by now
            assert len(app.calls) == 4
            assert len(list(replies)) == 49


def test_a_schema_is_sent_with_an_object_as_its_root() -> None:
    app = App()
    ask(app, "a", settings={"schema": {"type": "array", "items": {"type": "string"}}})
    form = app.calls[0].body["response_format"]["json_schema"]
    assert form["strict"] is True
    assert form["schema"]["type"] == "object"
    assert form["schema"]["properties"]["pairs"] == {"type": "array", "items": {"type": "string"}}


def test_a_missing_key_is_reported_first() -> None:
    with pytest.raises(DlmError, match="OPENAI_API_KEY"):
        OpenAITeacher("m")


@pytest.mark.parametrize("key", ["schlüssel", "sk-1\n2", "sk-\u200b1"])
def test_a_malformed_key_is_reported_first(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(DlmError, match="OPENAI_API_KEY contains a character"):
        OpenAITeacher("m")


def test_a_placeholder_key_is_not_masked_in_messages() -> None:
    teacher = OpenAITeacher("m", base_url=f"http://127.0.0.1:{free_port()}/v1", api_key="a", max_retries=0)
    with pytest.raises(DlmError, match="All connection attempts failed"):
        list(teacher.generate(requests("x")))


def test_a_missing_package_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(DlmError, match=r"pip install .*\[openai\]") as caught:
        OpenAITeacher("m", api_key=KEY)
    assert caught.value.kind == "MissingExtraError"
