"""OpenAI's chat completions as a teacher: `OpenAITeacher("gpt-5-mini")`, reference `openai:gpt-5-mini`.

The key comes from OPENAI_API_KEY and the address from OPENAI_BASE_URL, so any server with the same API works. A
parameter that the model doesn't support is left out from then on, with one warning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dlm_trl.teachers.protocol import Reply, Request, Usage
from dlm_trl.teachers.remote import NO_ROOM, Answer, RemoteTeacher, object_schema, usage_of
from dlm_trl.teachers.stream import Ask

if TYPE_CHECKING:
    from openai import AsyncOpenAI
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


class ChatTeacher(RemoteTeacher):
    """Any server with this API."""

    sdk_name = "openai"
    optional = OPTIONAL
    renames = RENAMES

    async def _complete(self, client: AsyncOpenAI, request: Request) -> Answer:
        """The answer of one chat completion. Raises the SDK's errors, and ValueError for a malformed reply."""
        arguments = {
            "model": self.revision,
            "messages": list(request.messages),
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
        return _read(await self._call(client.chat.completions.create, arguments))


class OpenAITeacher(ChatTeacher):
    """OpenAI, or the server at OPENAI_BASE_URL."""

    key_name = "OPENAI_API_KEY"
    not_found = "Check the model's name, and the address in OPENAI_BASE_URL, which usually ends in /v1."

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Ask]:
        async with self._open("AsyncOpenAI") as client:

            async def ask(request: Request) -> Reply:
                return await self._reply(request, lambda: self._complete(client, request))

            yield ask


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
