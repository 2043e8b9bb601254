"""OpenAI's chat completions as a teacher: `OpenAITeacher("gpt-5-mini")`, reference `openai:gpt-5-mini`.

The key comes from OPENAI_API_KEY and the address from OPENAI_BASE_URL, so any server with the same API works. A
parameter that the model doesn't support is left out from then on, with one warning. Batches are files of requests; a
batch's metadata has our name for it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from dlm_trl.teachers.batches import BatchState, BatchTeacher, Result
from dlm_trl.teachers.protocol import Reply, Request, Usage
from dlm_trl.teachers.remote import NO_ROOM, Answer, RemoteTeacher, object_schema, usage_of
from dlm_trl.teachers.stream import Ask

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI
    from openai.types.chat import ChatCompletion, ChatCompletionMessage

# Optional parameters, and how an error refers to them. Newer models call max_tokens by its second name.
OPTIONAL = {
    "temperature": r"\btemperature\b",
    "top_p": r"\btop_p\b",
    "seed": r"\bseed\b",
    "response_format": r"response_format|json_schema",
    "max_tokens": r"\bmax_tokens\b",
}
RENAMES = {"max_tokens": "max_completion_tokens"}

_ENDPOINT: Final = "/v1/chat/completions"
_LABEL = "dlm_trl"  # the key of our name for a batch in its metadata


class ChatTeacher(RemoteTeacher):
    """Any server with this API."""

    sdk_name = "openai"
    optional = OPTIONAL
    renames = RENAMES

    async def _complete(self, client: AsyncOpenAI, request: Request) -> Answer:
        """The answer of one chat completion. Raises the SDK's errors, and ValueError for a malformed reply."""
        return _read(await self._call(client.chat.completions.create, self._arguments(request)))

    def _arguments(self, request: Request) -> dict[str, Any]:
        """The body of a request, as for a model that supports all parameters."""
        arguments: dict[str, Any] = {
            "model": self.revision,
            "messages": [dict(message) for message in request.messages],
            "max_tokens": request.max_new_tokens,
            "temperature": request.temperature,
        }
        if request.top_p is not None:
            arguments["top_p"] = request.top_p
        if request.seed is not None:
            arguments["seed"] = request.seed
        if request.schema is not None:
            schema = {"name": "pairs", "strict": True, "schema": object_schema(request.schema)}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        return arguments


class OpenAITeacher(ChatTeacher, BatchTeacher):
    """OpenAI, or the server at OPENAI_BASE_URL."""

    key_name = "OPENAI_API_KEY"
    not_found = "Check the model's name, and the address in OPENAI_BASE_URL, which usually ends in /v1."
    client_name = "OpenAI"
    max_requests = 50_000
    max_bytes = 200_000_000

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Ask]:
        async with self._open("AsyncOpenAI") as client:

            async def ask(request: Request) -> Reply:
                return await self._reply(request, lambda: self._complete(client, request))

            yield ask

    def _batches(self, client: OpenAI) -> Any:
        return client.batches

    def _entry(self, request: Request) -> dict[str, Any]:
        body = self._supported(self._arguments(request))
        return {"custom_id": request.key, "method": "POST", "url": _ENDPOINT, "body": body}

    def _submit(self, client: OpenAI, entries: Sequence[Mapping[str, Any]], label: str) -> str:
        lines = "".join(f"{json.dumps(entry)}\n" for entry in entries).encode()
        file = client.files.create(file=("dlm-trl.jsonl", lines), purpose="batch")
        batch = client.with_options(max_retries=0).batches.create(
            input_file_id=file.id, endpoint=_ENDPOINT, completion_window="24h", metadata={_LABEL: label}
        )
        return batch.id

    def _find(self, client: OpenAI, label: str, since: datetime, size: int) -> Iterator[str]:
        for batch in client.batches.list(limit=100):  # the newest first
            if batch.created_at < since.timestamp():
                return
            if (batch.metadata or {}).get(_LABEL) == label:
                yield batch.id

    def _state(self, client: OpenAI, batch_id: str) -> BatchState:
        batch = client.batches.retrieve(batch_id)
        problem, errors = None, (batch.errors and batch.errors.data) or []
        if batch.status == "failed":
            problem = "; ".join(f"{error.code}: {error.message}" for error in errors) or "no reason was given"
        counts = batch.request_counts
        return BatchState(
            done=counts.completed + counts.failed if counts else 0,
            total=counts.total if counts else 0,
            has_ended=batch.status in ("completed", "failed", "expired", "cancelled"),
            is_cancelled=batch.status == "cancelled",
            problem=problem,
            is_too_large=any(error.code == "token_limit_exceeded" for error in errors),
        )

    def _results(self, client: OpenAI, batch_id: str) -> Iterator[Result]:
        batch = client.batches.retrieve(batch_id)
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in client.files.content(file).content.splitlines():
                yield self._result(json.loads(line))

    def _result(self, line: Mapping[str, Any]) -> Result:
        """The result in a line of a batch's output or error file."""
        from openai.types.chat import ChatCompletion

        key = line["custom_id"]
        match line:
            case {"response": {"status_code": 200, "body": body}}:
                return self._succeeded(key, lambda: _read(ChatCompletion.model_construct(**body)))
            case {"response": {"status_code": int(status), "body": {"error": {"message": message} as error}}}:
                is_rejected = status in range(400, 500) and status not in (408, 409, 429)
                may_repeat = not is_rejected and error.get("code") != "insufficient_quota"
                return self._failed(key, f"Error code: {status} - {message}", may_repeat=may_repeat)
            case {"error": {"code": code, "message": message}}:
                return self._failed(key, f"{code}: {message}", may_repeat=code != "batch_cancelled")
        return self._failed(key, f"The result in the batch can't be read: {line}")


def _read(completion: ChatCompletion) -> Answer:
    try:
        choice = completion.choices[0]
        text, refusal = choice.message.content or "", choice.message.refusal
        if isinstance(text, list):  # some servers send a list of parts, some of them reasoning
            text = "".join(part["text"] for part in text if part["type"] == "text")
        tokens = completion.usage
        usage = usage_of(tokens.prompt_tokens, tokens.completion_tokens) if tokens else Usage()
    except (AttributeError, LookupError, TypeError) as error:  # the SDK doesn't validate responses
        raise ValueError(f"the server's reply is not a chat completion: {completion!r}") from error
    if not isinstance(text, str):
        raise ValueError(f"the server's reply contains no text: {text!r}")
    is_truncated = choice.finish_reason == "length"
    if not text and not refusal and not is_truncated:
        # A reasoning parser that takes the whole reply for reasoning leaves no content.
        text = _reasoning(choice.message)
    if text:
        return Answer(text, usage, is_truncated=is_truncated)
    if refusal:
        return Answer("", usage, f"The model refused to answer: {refusal}")
    problems = {"length": NO_ROOM, "content_filter": "The server's content filter blocked the reply."}
    return Answer("", usage, problems.get(str(choice.finish_reason)))


def _reasoning(message: ChatCompletionMessage) -> str:
    """What the model thought, as servers with a reasoning parser send it; empty for others."""
    extra = message.model_extra or {}
    texts = (extra.get(name) for name in ("reasoning_content", "reasoning"))
    return next((text for text in texts if isinstance(text, str)), "")
