"""What the teachers behind a network share: `RemoteTeacher`, to be completed by how one request is asked.

A subclass says in `_session` how its clients are opened and how one of them answers a request; it passes each exchange
through `_reply`, and each call of the SDK through `_call`. From here come: replies as they complete with no more than
`concurrency` requests under way, the error that becomes a reply and the one that ends the run, and the parameters that
a model does not take. Retries, their pauses and timeouts are the SDK's own.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from types import ModuleType
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from anyio import EndOfStream, create_memory_object_stream, create_task_group
from anyio.from_thread import start_blocking_portal

from dlm_trl.notes.errors import DlmError, TeacherError
from dlm_trl.notes.extras import require_extra
from dlm_trl.teachers.protocol import Reply, Request, Usage

logger = logging.getLogger(__name__)

Ask = Callable[[Request], Awaitable[Reply]]
Session = Callable[[], AbstractAsyncContextManager[Ask]]

CONNECT_SECONDS = 10.0
# Statuses that every further request would meet, too: no key, no money, no right, no such model.
HOPELESS = {401, 402, 403, 404}
LEAST_SECRET = 8  # characters; a shorter key is a word for a server that checks none, and stands in any text
# How servers say that they do not take a parameter, as against a value that is out of range.
REFUSAL = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|deprecated|not permitted|not allowed|invalid schema"
    r"|unavailable|only \S+ is allowed",
    re.IGNORECASE,
)

NO_ROOM = "All the new tokens went into the model's thinking, and none is left for the reply: raise --max-new-tokens."


class Answer(NamedTuple):
    """What a server sent: text and usage; a problem where there is no text, though the usage is paid for."""

    text: str
    usage: Usage
    problem: str | None = None


class RemoteTeacher(ABC):
    """A teacher that is asked through an SDK. `optional` holds the parameters of a call that can be gone without: the
    name that is sent, and a regular expression for what a refusal calls it. `renames` holds those that have a second
    name for the servers that refuse the first.

    api_key and base_url stand in place of what the environment says. timeout is in seconds for one try, max_retries the
    SDK's: after 429 (with its Retry-After), 5xx, timeouts and lost connections. Raises DlmError: MissingExtraError,
    TeacherError where there is no key.
    """

    context: int | None = None
    sdk_name: ClassVar[str]
    key_name: ClassVar[str]  # the environment's variable
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
        self._key = key_from(self.key_name, api_key)
        self._client_arguments: dict[str, Any] = {
            "base_url": base_url,
            "api_key": self._key,
            "timeout": self._sdk.Timeout(timeout, connect=CONNECT_SECONDS),
            "max_retries": max_retries,
        }
        self._concurrency = concurrency
        self._refused: set[str] = set()
        self._answered = False  # whether the server ever said anything

    @abstractmethod
    def _session(self) -> AbstractAsyncContextManager[Ask]:
        """Opens what is needed to ask, in the event loop that will do the asking."""

    def generate(self, requests: Sequence[Request]) -> Generator[Reply]:
        """Replies as they come. Raises DlmError (TeacherError) for what would meet every request: a key that is not
        taken, a model that does not exist, a server that cannot be reached; what is under way is waited for first."""
        return stream(self._session, requests, self._concurrency)

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """Not known: the tokenizer is at the server."""
        return None

    def _open(self, client: str, **others: Any) -> Any:
        """A client of the SDK, by the name of its class. Raises DlmError (TeacherError)."""
        try:
            opened = getattr(self._sdk, client)(**self._client_arguments | others)
            _ = urlsplit(str(opened.base_url)).port  # raises ValueError for one that no server can have
        # Whatever the HTTP and TLS libraries raise about an address, a proxy or a file of certificates that is none.
        except Exception as error:
            hint = "Check the server's address, and the proxies and certificates that the environment names."
            raise TeacherError(
                f"{self.reference} cannot be asked: {self._line(error).rstrip('.')}.", hint=hint
            ) from error
        return opened

    async def _call(self, create: Callable[..., Awaitable[Any]], arguments: Mapping[str, Any]) -> Any:
        """`create(**arguments)`, without the optional parameters that this model refused, now or earlier."""
        while True:
            sent = dict(self._accepted(arguments))
            try:
                answer = await create(**sent)
            except self._sdk.APIStatusError as error:
                self._answered = True
                name = self._refused_by(error, sent)
                if name is None:
                    raise
                if name not in self._refused:  # else another request under way met the same refusal
                    self._refused.add(name)
                    instead = f"; {self.renames[name]} is sent instead" if name in self.renames else ""
                    logger.warning("%s does not take %s: going on without it%s.", self.reference, name, instead)
            else:
                self._answered = True
                return answer

    def _accepted(self, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for name, value in arguments.items():
            if name not in self._refused:
                yield name, value
            elif name in self.renames:
                yield self.renames[name], value

    def _refused_by(self, error: Any, sent: Mapping[str, Any]) -> str | None:
        told = self._told(error)
        if error.status_code not in (400, 422) or not REFUSAL.search(told):
            return None
        return next((n for n, said in self.optional.items() if n in sent and re.search(said, told)), None)

    async def _reply(self, request: Request, exchange: Callable[[], Awaitable[Answer]]) -> Reply:
        """The reply of one exchange, timed; an error of this request is told in it, one of the run is raised."""
        began = time.perf_counter()
        try:
            answer = await exchange()
        # The SDKs let errors of decoding pass: a body that is not JSON, or not text, is a ValueError.
        except (self._sdk.APIError, ValueError, RecursionError) as error:
            if self._ends_the_run(error):
                raise self._error(error) from error
            answer = Answer("", Usage(), self._line(error))
        problem = answer.problem and self._short(answer.problem)
        return Reply(request.key, answer.text, answer.usage, time.perf_counter() - began, problem)

    def _ends_the_run(self, error: Exception) -> bool:
        if isinstance(error, self._sdk.APIStatusError):
            return error.status_code in HOPELESS or getattr(error, "code", None) == "insufficient_quota"
        lost = isinstance(error, self._sdk.APIConnectionError) and not isinstance(error, self._sdk.APITimeoutError)
        return lost and not self._answered

    def _error(self, error: Exception, who: str | None = None) -> TeacherError:
        hints = {
            401: f"Check the key in {self.key_name}.",
            402: "The account has no credit left.",
            403: f"Check what the key in {self.key_name} may use.",
            404: "Check the model's name and the server's address.",
            429: "The account's quota is used up.",
        }
        hint = hints.get(getattr(error, "status_code", 0), "Check the server's address and the network.")
        return TeacherError(f"{who or self.reference} cannot be asked: {self._line(error).rstrip('.')}.", hint=hint)

    def _told(self, error: Exception) -> str:
        """What an error says, with its cause, and with the body that came where the SDK found no message in it."""
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
        """An error in one short line, with its kind."""
        return self._short(f"{type(error).__name__}: {self._told(error)}")

    def _short(self, text: str) -> str:
        """One line of at most 300 characters, without the key."""
        said = " ".join(text.split())
        if len(self._key) >= LEAST_SECRET:
            said = said.replace(self._key, "…")
        return said[:300]


def stream(session: Session, requests: Sequence[Request], concurrency: int) -> Generator[Reply]:
    """Asks in an event loop of its own, in a thread, and yields replies as they complete.

    A request is under way until its reply was taken, and at most `concurrency` are: who stops taking replies stops the
    asking, and closing the iterator loses no more than these. Who does not take all should close it. A DlmError from
    asking ends it: no further request is begun, the replies of those under way still come, then it is raised.
    """
    if not requests:
        return
    failures: list[DlmError] = []
    todo = iter(requests)
    send, receive = create_memory_object_stream[Reply](0)

    async def worker(ask: Ask) -> None:
        for request in todo:
            try:
                reply = await ask(request)
            except DlmError as error:
                failures.append(error)
            else:
                await send.send(reply)
            if failures:
                return

    async def work() -> None:
        async with send, session() as ask, create_task_group() as group:
            for _ in range(min(concurrency, len(requests))):
                group.start_soon(worker, ask)

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(receive):
        done = portal.start_task_soon(work)
        with suppress(EndOfStream):
            while True:
                yield portal.call(receive.receive)
        done.result()
    if failures:
        raise failures[0]


def load_sdk(name: str) -> ModuleType:
    """The SDK's module. Raises DlmError (MissingExtraError)."""
    require_extra(name, "This teacher")
    return importlib.import_module(name)


def key_from(variable: str, given: str | None) -> str:
    """The key that was given, else that of the environment. Raises DlmError (TeacherError) where there is none, or
    one that no header of a request can hold.
    """
    key = (given or os.environ.get(variable, "")).strip()
    if not key:
        raise TeacherError(
            f"There is no key: the environment variable {variable} is not set.",
            hint=f"Set it: export {variable}=… (a local server that checks no key takes any word).",
        )
    if not (key.isascii() and key.isprintable()):
        raise TeacherError(
            f"The key in {variable} holds a character that no key has.",
            hint="Copy it once more, without what is around it.",
        )
    return key


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with an object at its root, as structured output asks for: a list becomes `{"pairs": […]}`."""
    if schema.get("type") == "object":
        return dict(schema)
    return {"type": "object", "properties": {"pairs": schema}, "required": ["pairs"], "additionalProperties": False}


def usage_of(prompt_tokens: object, completion_tokens: object) -> Usage:
    """Usage as a server counted it; zeros where it does not tell both numbers."""
    told = [n for n in (prompt_tokens, completion_tokens) if isinstance(n, int | float) and 0 <= n < math.inf]
    return Usage(*map(int, told)) if len(told) == 2 else Usage()
