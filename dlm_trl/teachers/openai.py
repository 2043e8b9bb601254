"""A model behind OpenAI's chat completions: `OpenAITeacher("gpt-5-mini")`, for the reference `openai:gpt-5-mini`.

The key is read from OPENAI_API_KEY, the address from OPENAI_BASE_URL, so that any server with the same interface
serves. Parameters that a model refuses are left out from then on, with one warning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dlm_trl.teachers.protocol import Reply, Request, Usage
from dlm_trl.teachers.remote import CONNECT_SECONDS, Ask, RemoteTeacher, key_from, load_sdk, object_schema

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

# What a request can do without, and what a refusal calls it; `max_tokens` is known by its second name to newer models.
OPTIONAL = {
    "temperature": r"\btemperature\b",
    "top_p": r"\btop_p\b",
    "seed": r"\bseed\b",
    "response_format": r"response_format|json_schema",
    "max_tokens": r"\bmax_tokens\b",
}
RENAMES = {"max_tokens": "max_completion_tokens"}


class ChatTeacher(RemoteTeacher):
    """What is common to all servers with this interface."""

    optional = OPTIONAL
    renames = RENAMES

    async def _complete(self, client: AsyncOpenAI, request: Request) -> tuple[str, Usage]:
        """Text and usage of one chat completion. Raises the SDK's errors and ValueError."""
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
    """timeout is in seconds for one try, max_retries the SDK's: after 429 (with its Retry-After), 5xx, timeouts and
    lost connections. Raises DlmError: MissingExtraError, TeacherError where there is no key."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        max_retries: int = 5,
    ) -> None:
        sdk = load_sdk("openai")
        key = key_from("OPENAI_API_KEY", api_key)
        super().__init__(sdk, f"openai:{model}", model, key, "OPENAI_API_KEY", concurrency)
        self._client_arguments: dict[str, Any] = {
            "api_key": key,
            "timeout": sdk.Timeout(timeout, connect=CONNECT_SECONDS),
            "max_retries": max_retries,
        }
        if base_url is not None:
            self._client_arguments["base_url"] = base_url

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Ask]:
        async with self._sdk.AsyncOpenAI(**self._client_arguments) as client:

            async def ask(request: Request) -> Reply:
                return await self._reply(request, lambda: self._complete(client, request))

            yield ask


def _read(completion: ChatCompletion) -> tuple[str, Usage]:
    try:
        message = completion.choices[0].message
        text, refusal = message.content or "", message.refusal
        counted = completion.usage
        usage = Usage(int(counted.prompt_tokens or 0), int(counted.completion_tokens or 0)) if counted else Usage()
    except (AttributeError, LookupError, TypeError) as error:  # the SDK does not check the shape of what it gets
        raise ValueError(f"the server's reply is not a chat completion: {completion!r}") from error
    if not isinstance(text, str):
        raise ValueError(f"the server's reply holds no text: {text!r}")
    if refusal and not text:
        raise ValueError(f"the model refused to answer: {refusal}")
    return text, usage
