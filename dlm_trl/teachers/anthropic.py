"""Anthropic's messages API as a teacher: `AnthropicTeacher("claude-…")`, reference `anthropic:claude-…`.

The key comes from ANTHROPIC_API_KEY and the address from ANTHROPIC_BASE_URL. The API no longer accepts temperature,
top_p or seed (an error since version 2026-10-21), so they aren't sent, with one warning. A request's schema is sent as
structured output, and dropped for models without it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dlm_trl.teachers.protocol import Reply, Request
from dlm_trl.teachers.remote import NO_ROOM, Answer, RemoteTeacher, object_schema, usage_of
from dlm_trl.teachers.stream import Ask

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic.types import Message

logger = logging.getLogger(__name__)

# Optional parameters, and how an error refers to them.
OPTIONAL = {"output_config": r"output_config|output_format|structured output"}


class AnthropicTeacher(RemoteTeacher):
    """Anthropic, or the server at ANTHROPIC_BASE_URL."""

    sdk_name = "anthropic"
    key_name = "ANTHROPIC_API_KEY"
    optional = OPTIONAL
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
        return _read(await self._call(client.messages.create, arguments))


def _read(message: Message) -> Answer:
    try:
        text = "".join(block.text for block in message.content if block.type == "text")
        usage = usage_of(message.usage.input_tokens, message.usage.output_tokens)
    except (AttributeError, LookupError, TypeError) as error:  # the SDK doesn't validate responses
        raise ValueError(f"the server's reply is not a message: {message!r}") from error
    problems = {"refusal": "The model refused to answer.", "max_tokens": NO_ROOM}
    problem = None if text else problems.get(str(message.stop_reason))
    return Answer(text, usage, problem, is_truncated=message.stop_reason == "max_tokens")
