"""Batches of requests, which a provider answers within 24 hours at half the price: `BatchTeacher`, a base class.

    teacher.check_batches()                                     # does the server have a batch API?
    teacher.settle(requests[0])                                 # does it accept such requests?
    ids = [teacher.submit(part, "a label") for part in teacher.parts(requests)]
    while not teacher.poll(ids[0]).has_ended: …
    for result in teacher.collect(ids[0]): …                    # in any order

Here nothing is remembered; `synth.batches` keeps what was submitted in the ledger. A batch has the same requests as
`generate` would send.
"""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from dlm_trl.notes.errors import TeacherError
from dlm_trl.teachers.protocol import Reply, Request, Usage
from dlm_trl.teachers.remote import TOO_LONG, Answer, RemoteTeacher

logger = logging.getLogger(__name__)

_CLOCK_SKEW = timedelta(hours=1)  # that the clocks here and at the server may differ by
_FRAME = 100  # bytes around the requests of a batch
_LOOKS_FIRST = "Rerun the same command: it looks for the batch before it submits another one."


@dataclass(frozen=True, slots=True)
class BatchState:
    """How far a batch is; done and total are requests as the server counts them.

    problem: why the server refused the whole batch, which has no results then. is_too_large: it did because the account
    may not have so much in the queue at once.
    """

    done: int
    total: int
    has_ended: bool = False
    is_cancelled: bool = False
    problem: str | None = None
    is_too_large: bool = False


class Result(NamedTuple):
    """What a batch has for a request. may_repeat: it failed, through no fault of the request."""

    reply: Reply
    may_repeat: bool = False


class BatchTeacher(RemoteTeacher):
    """A teacher whose server has a batch API.

    max_requests, max_bytes: limits of one batch. Every method raises DlmError (TeacherError) if the server can't be
    reached or refuses.
    """

    client_name: ClassVar[str]  # the SDK's client class
    max_requests: ClassVar[int]
    max_bytes: ClassVar[int]
    _is_settled = False

    def check_batches(self) -> None:
        """Raise the error for a server without a batch API. Lists batches, and changes nothing."""
        with self._connected() as client:
            try:
                found = getattr(self._batches(client).list(limit=1), "data", None)  # not there in garbage
            except self._sdk.APIStatusError as error:
                if error.status_code not in (404, 405, 501):
                    raise
                found = None
            if not isinstance(found, list):
                raise TeacherError(
                    f"{self.reference} can't be asked in batches: {client.base_url} has no batch API.",
                    hint="Leave out --batch, or check the server's address.",
                )

    def settle(self, request: Request) -> None:
        """Send one short request with the parameters of this one, unless that was done before.

        A batch would report hours later what is wrong with all of its requests. Parameters that the model doesn't
        support are dropped, as in ordinary requests.
        """
        if self._is_settled:
            return
        message = {"role": "user", "content": "Reply with an empty list."}
        (reply,) = self.generate([replace(request, key="trial", messages=[message])])
        if reply.error and reply.usage == Usage():
            raise TeacherError(
                f"{self.reference} failed to answer a short request: {reply.error.rstrip('.')}.",
                hint="No batch was submitted. Rerun the same command once this is solved.",
            )
        self._is_settled = True

    def parts(self, requests: Sequence[Request]) -> list[list[Request]]:
        """The requests, in parts that fit into one batch each."""
        parts: list[list[Request]] = []
        size = self.max_bytes
        for request in requests:
            needed = len(json.dumps(self._entry(request))) + 2  # ASCII, and what separates it from the next one
            if size + needed > self.max_bytes or len(parts[-1]) == self.max_requests:
                parts.append([])
                size = _FRAME
            parts[-1].append(request)
            size += needed
        return parts

    def submit(self, requests: Sequence[Request], label: str) -> str:
        """Submit a batch, and return the server's id of it. label: up to 64 characters, for `find`.

        Not retried: after a lost connection, the batch may exist.
        """
        with self._connected(_LOOKS_FIRST) as client:
            return self._submit(client, [self._entry(request) for request in requests], label)

    def find(self, label: str, since: datetime, size: int) -> list[str]:
        """The ids of the batches that may be the one that was submitted with this label, at this time at the earliest.

        size: its number of requests. Empty if it was never created.
        """
        with self._connected() as client:
            return list(self._find(client, label, since - _CLOCK_SKEW, size))

    def poll(self, batch_id: str) -> BatchState | None:
        """How far a batch is; None, with a warning, if the server can't be asked right now."""
        with self._connected() as client:
            try:
                return self._state(client, batch_id)
            except self._sdk.NotFoundError as error:
                raise self._gone(batch_id) from error
            except (self._sdk.APIConnectionError, self._sdk.InternalServerError, self._sdk.RateLimitError) as error:
                logger.warning("Can't ask about the batch %s, trying again: %s", batch_id, self._line(error))
                return None

    def collect(self, batch_id: str) -> Iterator[Result]:
        """The results of a batch that has ended, in any order; one that was cut short may lack some."""
        with self._connected() as client:
            try:
                yield from self._results(client, batch_id)
            except self._sdk.NotFoundError as error:
                raise self._gone(batch_id) from error

    @abstractmethod
    def _batches(self, client: Any) -> Any:
        """The SDK's resource of batches."""

    @abstractmethod
    def _entry(self, request: Request) -> dict[str, Any]:
        """A request as a batch has it."""

    @abstractmethod
    def _submit(self, client: Any, entries: Sequence[Mapping[str, Any]], label: str) -> str: ...

    @abstractmethod
    def _find(self, client: Any, label: str, since: datetime, size: int) -> Iterator[str]: ...

    @abstractmethod
    def _state(self, client: Any, batch_id: str) -> BatchState: ...

    @abstractmethod
    def _results(self, client: Any, batch_id: str) -> Iterator[Result]: ...

    @contextmanager
    def _connected(self, hint_if_unclear: str | None = None) -> Iterator[Any]:
        """The SDK's client. Its errors become a TeacherError, with this hint if the server may have done its part."""
        from httpx2 import HTTPError

        try:
            yield self._client
        # HTTPError: the SDKs don't wrap what happens while a file is read. From ValueError on: they don't validate what
        # a server sends.
        except (
            getattr(self._sdk, f"{self.client_name}Error"), HTTPError,
            ValueError, RecursionError, AttributeError, LookupError, TypeError,
        ) as error:  # fmt: skip
            failure = self._error(error)
            is_unclear = getattr(error, "status_code", 500) >= 500
            raise TeacherError(failure.message, hint=(is_unclear and hint_if_unclear) or failure.hint) from error

    @cached_property
    def _client(self) -> Any:
        return self._open(self.client_name)

    def _gone(self, batch_id: str) -> TeacherError:
        return TeacherError(
            f"{self.reference} has no results of the batch {batch_id}.",
            hint="Use the key and the address that it was submitted with. If it's deleted, --fresh asks again.",
        )

    def _succeeded(self, key: str, read: Callable[[], Answer]) -> Result:
        try:
            return Result(self._as_reply(key, read()))
        except (ValueError, TypeError) as error:
            return self._failed(key, self._line(error))

    def _failed(self, key: str, problem: str, *, may_repeat: bool = False) -> Result:
        is_too_long = not may_repeat and bool(TOO_LONG.search(problem))
        return Result(self._as_reply(key, Answer("", Usage(), problem, is_too_long=is_too_long)), may_repeat)
