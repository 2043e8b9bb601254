"""Anthropic's messages API as a teacher: `AnthropicTeacher("claude-…")`, reference `anthropic:claude-…`.

The key comes from ANTHROPIC_API_KEY and the address from ANTHROPIC_BASE_URL. The API no longer accepts temperature,
top_p or seed (an error since version 2026-10-21), so they aren't sent, with one warning. A request's schema is sent as
structured output, and dropped for models without it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from dlm_trl.teachers.batches import BatchState, BatchTeacher, Result
from dlm_trl.teachers.protocol import Reply, Request
from dlm_trl.teachers.remote import NO_ROOM, Answer, object_schema, usage_of
from dlm_trl.teachers.stream import Ask

if TYPE_CHECKING:
    from anthropic import Anthropic, AsyncAnthropic
    from anthropic.types import Message
    from anthropic.types.messages import MessageBatchRequestCounts, MessageBatchResult
    from anthropic.types.messages.batch_create_params import Request as BatchedRequest

logger = logging.getLogger(__name__)

# Optional parameters, and how an error refers to them.
OPTIONAL = {"output_config": r"output_config|output_format|structured output"}

# Types of errors that are the server's fault, so that the same request may succeed later.
_SERVER_ERRORS = ("api_error", "overloaded_error", "rate_limit_error", "timeout_error")


class AnthropicTeacher(BatchTeacher):
    """Anthropic, or the server at ANTHROPIC_BASE_URL."""

    sdk_name = "anthropic"
    key_name = "ANTHROPIC_API_KEY"
    optional = OPTIONAL
    client_name = "Anthropic"
    max_requests = 100_000
    max_bytes = 256_000_000
    _warned = False

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Ask]:
        if not self._warned:
            self._warned = True
            logger.warning("%s doesn't accept temperature, top_p or seed: continuing without them.", self.reference)
        async with self._open("AsyncAnthropic") as client:

            async def ask(request: Request) -> Reply:
                return await self._reply(request, lambda: self._message(client, request))

            yield ask

    async def _message(self, client: AsyncAnthropic, request: Request) -> Answer:
        return _read(await self._call(client.messages.create, self._arguments(request)))

    def _arguments(self, request: Request) -> dict[str, Any]:
        """The body of a request, as for a model that supports all parameters."""
        arguments: dict[str, Any] = {
            "model": self.revision,
            "max_tokens": request.max_new_tokens,
            "messages": [dict(m) for m in request.messages if m["role"] != "system"],
        }
        if system := "\n\n".join(m["content"] for m in request.messages if m["role"] == "system"):
            arguments["system"] = system
        if request.schema is not None:
            schema = self._sdk.transform_schema(object_schema(request.schema))
            arguments["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return arguments

    def _batches(self, client: Anthropic) -> Any:
        return client.messages.batches

    def _entry(self, request: Request) -> dict[str, Any]:
        return {"custom_id": request.key, "params": self._supported(self._arguments(request))}

    def _submit(self, client: Anthropic, entries: Sequence[Mapping[str, Any]], label: str) -> str:
        requests = cast("list[BatchedRequest]", entries)
        return client.with_options(max_retries=0).messages.batches.create(requests=requests).id

    def _find(self, client: Anthropic, label: str, since: datetime, size: int) -> Iterator[str]:
        # The API keeps nothing that we could recognise a batch by before it has ended, so these may be someone else's.
        for batch in client.messages.batches.list(limit=100):  # the newest first
            if batch.created_at < since:
                return
            if _total(batch.request_counts) == size:
                yield batch.id

    def _state(self, client: Anthropic, batch_id: str) -> BatchState:
        batch = client.messages.batches.retrieve(batch_id)
        if batch.archived_at is not None:
            raise self._gone(batch_id)
        total = _total(batch.request_counts)
        return BatchState(
            done=total - batch.request_counts.processing,
            total=total,
            has_ended=batch.processing_status == "ended",
            is_cancelled=batch.cancel_initiated_at is not None,
        )

    def _results(self, client: Anthropic, batch_id: str) -> Iterator[Result]:
        for line in client.messages.batches.results(batch_id):
            yield self._result(line.custom_id, line.result)

    def _result(self, key: str, result: MessageBatchResult) -> Result:
        if result.type == "succeeded":
            message = result.message
            return self._succeeded(key, lambda: _read(message))
        if result.type == "errored":
            error = result.error.error
            return self._failed(key, f"{error.type}: {error.message}", may_repeat=error.type in _SERVER_ERRORS)
        problem = "The batch was cancelled." if result.type == "canceled" else "The batch expired before its turn."
        return self._failed(key, problem, may_repeat=result.type == "expired")


def _total(counts: MessageBatchRequestCounts) -> int:
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired


def _read(message: Message) -> Answer:
    try:
        text = "".join(block.text for block in message.content if block.type == "text")
        usage = usage_of(message.usage.input_tokens, message.usage.output_tokens)
    except (AttributeError, LookupError, TypeError) as error:  # the SDK doesn't validate responses
        raise ValueError(f"the server's reply is not a message: {message!r}") from error
    problems = {"refusal": "The model refused to answer.", "max_tokens": NO_ROOM}
    problem = None if text else problems.get(str(message.stop_reason))
    return Answer(text, usage, problem, is_truncated=message.stop_reason == "max_tokens")
