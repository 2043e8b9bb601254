"""What the API teachers share: `RemoteTeacher`, an abstract base class.

A subclass opens its clients in `_session` and sends one request there, passing each exchange through `_reply` and each
call of the SDK through `_call`. The base class yields replies as they complete, keeps at most `concurrency` requests in
flight, tells errors of one request from errors of the whole run, and drops parameters that a model doesn't support.
Retries, backoff and timeouts are the SDK's.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import re
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from anyio import Lock

from dlm_trl.notes.errors import TeacherError
from dlm_trl.notes.escape import mask, printable, redact
from dlm_trl.notes.extras import require_extra
from dlm_trl.teachers.protocol import Reply, Request, Usage
from dlm_trl.teachers.stream import Ask, stream

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds
# Statuses that every further request would get too: no key, no credit, no permission, no such model.
FATAL_STATUSES = {401, 402, 403, 404}
# How servers say that they don't support a parameter, as opposed to rejecting its value.
UNSUPPORTED = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|deprecated|not permitted|not allowed|invalid schema"
    r"|unavailable|only \S+ is allowed",
    re.IGNORECASE,
)

# How servers say that a prompt exceeds the model's context.
TOO_LONG = re.compile(
    r"context.{0,20}(?:size|length|window|limit)|(?:prompt|input|request) is too (?:long|large)"
    r"|too many (?:input )?tokens",
    re.IGNORECASE,
)

NO_ROOM = "The model spent all new tokens on thinking and none on the reply: raise --max-new-tokens."


class Answer(NamedTuple):
    """What a server sent. problem: why the text is missing; its tokens are billed anyway. The rest is as in `Reply`."""

    text: str
    usage: Usage
    problem: str | None = None
    is_truncated: bool = False
    is_too_long: bool = False


class RemoteTeacher(ABC):
    """A teacher that is reached through an SDK.

    Subclasses set `optional`, the parameters that may be dropped (name → regular expression that finds it in an error),
    and `renames`, the names to send instead to servers that reject the first one. A parameter is dropped for the rest
    of the run if the server says that it doesn't support it, or if the first request succeeds only without it.

    base_url, api_key: override the environment. timeout: seconds per attempt. max_retries: the SDK's, which retries
    after 429 (honouring Retry-After), 5xx, timeouts and lost connections. Raises DlmError: MissingExtraError, and
    TeacherError without a key.
    """

    context: int | None = None
    sdk_name: ClassVar[str]
    key_name: ClassVar[str]  # environment variable
    not_found: ClassVar[str] = "Check the model's name and the server's address."  # the hint for a 404
    optional: ClassVar[Mapping[str, str]] = {}
    renames: ClassVar[Mapping[str, str]] = {}

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
        self.reference = f"{self.sdk_name}:{model}"
        self.revision = model
        self._sdk = load_sdk(self.sdk_name)
        self._key = read_key(self.key_name, api_key)
        self._client_arguments: dict[str, Any] = {
            "base_url": base_url,
            "api_key": self._key,
            "timeout": self._sdk.Timeout(timeout, connect=CONNECT_TIMEOUT),
            "max_retries": max_retries,
        }
        self._concurrency = concurrency
        self._unsupported: set[str] = set()
        self._answered = False  # whether the server has ever responded
        self._may_search = True  # whether a rejected request may be sent again without its optional parameters
        self._searching = Lock()

    @abstractmethod
    def _session(self) -> AbstractAsyncContextManager[Ask]:
        """Opens the clients and yields `ask`, in the event loop that will call it."""

    def generate(self, requests: Sequence[Request]) -> Generator[Reply]:
        """See `Teacher.generate`.

        Raises DlmError (TeacherError) for what every request would run into: a rejected key, an unknown model, a server
        that can't be reached. Replies to the requests in flight come first.
        """
        return stream(self._session, requests, self._concurrency)

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """None: the tokenizer is on the server."""
        return None

    def _open(self, client: str, **overrides: Any) -> Any:
        """An instance of the SDK's client class of this name. Raises DlmError (TeacherError)."""
        try:
            if client.startswith("Async"):
                certificates = _certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
                overrides["http_client"] = self._sdk.DefaultAsyncHttpxClient(
                    verify=certificates, event_hooks={"response": [_set_status]}
                )
            opened = getattr(self._sdk, client)(**self._client_arguments | overrides)
            _ = urlsplit(str(opened.base_url)).port  # raises ValueError if out of range
        # The HTTP and TLS libraries raise all kinds of exceptions for a bad address, proxy or certificate file.
        except Exception as error:
            hint = "Check the server's address, and the proxies and certificates set in the environment."
            raise TeacherError(f"Can't use {self.reference}: {self._line(error).rstrip('.')}.", hint=hint) from error
        return opened

    async def _call(self, create: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]) -> Any:
        """`create(**arguments)`, without the optional parameters that turned out to be unsupported."""
        while True:
            sent = self._supported(arguments)
            try:
                answer = await create(**sent)
            except self._sdk.APIStatusError as error:
                self._answered = True
                message = self._message_of(error)
                if error.status_code not in (400, 422) or TOO_LONG.search(message):
                    raise
                if name := self._named_parameter(message, sent):
                    self._drop(name)
                    continue
                if (answer := await self._search(create, arguments, sent)) is not None:
                    return answer
                if self._supported(arguments) == sent:
                    raise
            else:
                self._answered = True
                self._may_search = False
                return answer

    def _supported(self, arguments: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
        dropped = self._unsupported.union(without)
        names = {name: self.renames.get(name) if name in dropped else name for name in arguments}
        return {new: arguments[name] for name, new in names.items() if new}

    def _named_parameter(self, message: str, sent: Mapping[str, Any]) -> str | None:
        """The optional parameter that an error's message says is unsupported."""
        if not UNSUPPORTED.search(message):
            return None
        return next((n for n, pattern in self.optional.items() if n in sent and re.search(pattern, message)), None)

    async def _search(
        self, create: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any], sent: Mapping[str, Any]
    ) -> Any:
        """Drop the optional parameters without which the server accepts the request, and return its answer, else None.

        For servers whose errors don't name the parameter. Done once per run, and only while the server has accepted
        nothing: after that, a rejected request is itself at fault.
        """
        async with self._searching:
            optional = [name for name in self.optional if name in sent]
            # If the parameters have changed, a concurrent request found the one to drop.
            if not self._may_search or not optional or self._supported(arguments) != sent:
                return None
            self._may_search = False
            for names in [*([name] for name in optional), optional]:
                answer = None
                try:
                    answer = await create(**self._supported(arguments, without=names))
                except self._sdk.APIStatusError as error:
                    if error.status_code not in (400, 422):
                        raise
                    if not TOO_LONG.search(self._message_of(error)):
                        continue
                # Accepted, or only too long now: these were what the server rejected.
                for name in names:
                    self._drop(name)
                return answer
            return None

    def _drop(self, name: str) -> None:
        if name not in self._unsupported:  # else a concurrent request got there first
            self._unsupported.add(name)
            instead = f"; {self.renames[name]} is sent instead" if name in self.renames else ""
            logger.warning("%s doesn't support %s: continuing without it%s.", self.reference, name, instead)

    async def _reply(self, request: Request, exchange: Callable[[], Awaitable[Answer]]) -> Reply:
        """The timed reply of one exchange. An error of this request goes into it; a fatal one is raised."""
        started = time.perf_counter()
        try:
            answer = await exchange()
        # ValueError and RecursionError: the SDKs don't wrap errors from decoding the body.
        except (self._sdk.APIError, ValueError, RecursionError) as error:
            if self._is_fatal(error):
                raise self._error(error) from error
            rejected = isinstance(error, self._sdk.APIStatusError) and error.status_code in (400, 413, 422)
            is_too_long = rejected and bool(TOO_LONG.search(self._message_of(error)))
            answer = Answer("", Usage(), self._line(error), is_too_long=is_too_long)
        return self._as_reply(request.key, answer, time.perf_counter() - started)

    def _as_reply(self, key: str, answer: Answer, seconds: float = 0.0) -> Reply:
        return Reply(
            key,
            # A server may repeat the request's headers; what it sends is kept in the ledger.
            mask(answer.text, self._key),
            answer.usage,
            seconds,
            answer.problem and self._short(answer.problem),
            answer.is_truncated,
            answer.is_too_long,
        )

    def _is_fatal(self, error: Exception) -> bool:
        if isinstance(error, self._sdk.APIStatusError):
            return error.status_code in FATAL_STATUSES or getattr(error, "code", None) == "insufficient_quota"
        lost = isinstance(error, self._sdk.APIConnectionError) and not isinstance(error, self._sdk.APITimeoutError)
        return lost and not self._answered

    def _error(self, error: Exception, who: str | None = None) -> TeacherError:
        hints = {
            401: f"Check the key in {self.key_name}.",
            402: "The account has no credit left.",
            403: f"Check the permissions of the key in {self.key_name}.",
            404: self.not_found,
            429: "The account's quota is used up.",
        }
        hint = hints.get(getattr(error, "status_code", 0), "Check the server's address and the network.")
        return TeacherError(f"Can't use {who or self.reference}: {self._line(error).rstrip('.')}.", hint=hint)

    def _message_of(self, error: Exception) -> str:
        """An error's message, with its cause, or with the response body if the SDK found no message in it."""
        if isinstance(error, self._sdk.APIConnectionError) and error.__cause__:
            return f"{error} ({error.__cause__})"
        if (
            isinstance(error, self._sdk.APIStatusError)
            and error.body
            and str(error) == f"Error code: {error.status_code}"
        ):
            return f"{error} - {error.body}"
        return str(error)

    def _line(self, error: Exception) -> str:
        """An error in one short line, with its class."""
        return self._short(f"{type(error).__name__}: {self._message_of(error)}")

    def _short(self, text: str) -> str:
        """One line of at most 300 characters, without keys and control characters."""
        line = printable(" ".join(text.split()))
        return redact(mask(line, self._key))[:300]


@cache
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The certificates to check servers with; these environment variables decide, which are read here.

    Reading them takes 20 ms, and each document of a folder has new clients.
    """
    from httpx2 import create_ssl_context  # the HTTP library of both SDKs

    return create_ssl_context()


async def _set_status(response: httpx.Response) -> None:
    """Give a reply of status 200 whose body is an error the error's status, so that the SDK retries and reports it."""
    if response.status_code != 200:
        return
    try:
        body = json.loads(await response.aread())
    except (ValueError, RecursionError):
        return  # the SDK reports it
    match body:
        case {"error": {"code": int(status)}} if 400 <= status < 600:
            response.status_code = status
        case {"error": {} | str() as error} if error:
            response.status_code = 500


def load_sdk(name: str) -> ModuleType:
    """The SDK's module. Raises DlmError (MissingExtraError)."""
    require_extra(name, "This teacher")
    return importlib.import_module(name)


def read_key(variable: str, api_key: str | None) -> str:
    """The API key: api_key, else the environment variable.

    Raises DlmError (TeacherError) if there is none, or if an HTTP header can't contain it.
    """
    key = (api_key or os.environ.get(variable, "")).strip()
    if not key:
        raise TeacherError(
            f"No API key: the environment variable {variable} isn't set.",
            hint=f"Set it: export {variable}=… (any word will do for a local server that doesn't check keys).",
        )
    if not (key.isascii() and key.isprintable()):
        raise TeacherError(
            f"The key in {variable} contains a character that isn't allowed in keys.",
            hint="Copy it again, without any surrounding text.",
        )
    return key


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with an object as its root, which structured output requires: a list becomes `{"pairs": […]}`."""
    if schema.get("type") == "object":
        return dict(schema)
    return {"type": "object", "properties": {"pairs": schema}, "required": ["pairs"], "additionalProperties": False}


def usage_of(prompt_tokens: object, completion_tokens: object) -> Usage:
    """Usage as the server counted it; zeros unless both numbers are valid."""
    counts = [n for n in (prompt_tokens, completion_tokens) if isinstance(n, int | float) and 0 <= n < math.inf]
    return Usage(*map(int, counts)) if len(counts) == 2 else Usage()
