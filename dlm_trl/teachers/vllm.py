"""vLLM servers as one teacher: `VllmTeacher(["http://a:8000", "http://b:8000"])`, all serving the same model.

Each request goes to the server that is likely to answer first, by its latest replies and its requests in flight, of
which it gets at most `concurrency`. A server that stops answering is removed with one warning, its requests go to the
others, and it is added back once a probe succeeds. A server without the model, or that rejects the key, is removed for
good. The run ends only when no server has answered for `patience` seconds. The key for `vllm serve --api-key` comes
from VLLM_API_KEY. Any server with `/v1/models` and `/v1/chat/completions` works.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from anyio import Condition, create_task_group, fail_after, sleep

from dlm_trl.notes.errors import TeacherError, UsageError
from dlm_trl.teachers.openai import ChatTeacher
from dlm_trl.teachers.protocol import Reply, Request
from dlm_trl.teachers.remote import CONNECT_TIMEOUT, FATAL_STATUSES, Answer
from dlm_trl.teachers.stream import Ask

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

PROBE_SECONDS = 5.0  # timeout of a probe, and interval between probes of a removed server
_LATEST = 0.2  # weight of the latest reply in a server's mean time
# The share of its mean time that a server loses when another one is chosen, so that a slow one is tried again.
_FORGOTTEN = 0.005


@dataclass
class _Server:
    url: str  # without /v1
    alive: bool = True
    rejects: bool = False  # it answers, but rejects every request
    in_flight: int = 0
    seconds: float | None = None  # mean of its latest replies

    def answered(self, seconds: float) -> None:
        self.seconds = seconds if self.seconds is None else self.seconds + _LATEST * (seconds - self.seconds)


class VllmTeacher(ChatTeacher):
    """A teacher on one or more servers.

    model: None takes the first model that a server lists; all servers must list it then. timeout: seconds per attempt.
    max_retries: the SDK's, kept low because it delays noticing a dead server. `context` is the smallest
    `max_model_len` of the servers, None if none reports it. Run one `generate` at a time. Raises DlmError:
    MissingExtraError, UsageError for a malformed URL, TeacherError if no server answers, here or in `generate`.
    """

    key_name = "VLLM_API_KEY"

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None = None,
        *,
        concurrency: int = 16,
        timeout: float = 120.0,
        max_retries: int = 2,
        patience: float = 30.0,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        key = os.environ.get(self.key_name, "").strip() or "EMPTY"
        super().__init__(model or "", api_key=key, timeout=timeout, max_retries=max_retries)
        self.reference = f"vllm-server:{','.join(urls)}{f'#{model}' if model else ''}"
        self._servers = [_Server(url) for url in dict.fromkeys(map(server_url, urls))]
        self._concurrency = concurrency * len(self._servers)
        self._concurrency_each = concurrency
        self._patience = patience
        self._probe_seconds = probe_seconds
        self._query_servers(model)

    def _query_servers(self, model: str | None) -> None:
        """Ask every server which models it serves; sets `revision` and `context`."""
        listed: dict[str, dict[str, dict[str, Any]]] = {}
        for server in self._servers:
            overrides = {"base_url": f"{server.url}/v1", "timeout": CONNECT_TIMEOUT, "max_retries": 1}
            with self._open("OpenAI", **overrides) as client:
                try:
                    models = client.models.list().data
                    listed[server.url] = {m.id: m.to_dict() for m in models}
                except (self._sdk.APIError, ValueError, AttributeError, TypeError) as error:
                    if getattr(error, "status_code", None) in FATAL_STATUSES:
                        raise self._error(error, server.url) from error
                    self._remove(server, self._line(error))
        if not listed:
            raise self._all_dead()
        self._answered = True
        self.revision = model or next((name for models in listed.values() for name in models), "")
        if not self.revision:
            raise TeacherError(f"{', '.join(listed)} lists no model.", hint="Name the model: vllm-server:URL#MODEL.")
        for url, models in listed.items():
            if model is None and self.revision not in models:
                raise TeacherError(
                    f"{url} doesn't serve {self.revision!r}; it lists {sorted(models)}.",
                    hint="All servers must serve the same model; name one that they share: vllm-server:URL,URL#MODEL.",
                )
        contexts = [models.get(self.revision, {}).get("max_model_len") for models in listed.values()]
        self.context = min((n for n in contexts if isinstance(n, int)), default=None)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Ask]:
        changed = Condition()  # notified when a server has room again or is back
        async with AsyncExitStack() as stack:
            clients: dict[str, AsyncOpenAI] = {}
            for server in self._servers:
                server.in_flight = 0
                client = self._open("AsyncOpenAI", base_url=f"{server.url}/v1")
                clients[server.url] = await stack.enter_async_context(client)

            async def ask(request: Request) -> Reply:
                return await self._reply(request, lambda: self._exchange(request, clients, changed))

            async with create_task_group() as group:
                group.start_soon(self._probe_removed, clients, changed)
                yield ask
                group.cancel_scope.cancel()

    async def _exchange(self, request: Request, clients: dict[str, AsyncOpenAI], changed: Condition) -> Answer:
        """Try one server after another until one answers, or until the request itself is at fault."""
        tried: set[str] = set()
        while True:
            server = await self._free_server(changed, tried)
            tried.add(server.url)
            started = time.perf_counter()
            try:
                answer = await self._complete(clients[server.url], request)
                server.answered(time.perf_counter() - started)
                return answer
            except (self._sdk.APIConnectionError, self._sdk.APIStatusError) as error:
                if not await self._can_retry(error, clients[server.url], server, tried):
                    raise
            finally:
                server.in_flight -= 1
                async with changed:
                    changed.notify_all()

    async def _can_retry(self, error: Exception, client: AsyncOpenAI, server: _Server, tried: set[str]) -> bool:
        """Whether a request that failed like this may go to another server; removes a server that can't be used."""
        others = any(s.alive and s.url not in tried for s in self._servers)
        status = error.status_code if isinstance(error, self._sdk.APIStatusError) else 500
        if status in FATAL_STATUSES:
            if others:
                server.rejects = True
                self._remove(server, self._line(error))
            return others
        if status < 500:
            return False
        if not await self._is_healthy(client, server):
            self._remove(server, self._line(error))
            return True
        # A healthy server that fails at once would attract all requests, since it always has the fewest in flight.
        return others and not isinstance(error, self._sdk.APITimeoutError)

    async def _free_server(self, changed: Condition, tried: set[str]) -> _Server:
        """The server that is likely to answer first, preferably an untried one; counts the request as its own.

        Waits until a server has room. Raises DlmError (TeacherError) if all stay dead.
        """
        async with changed:
            while True:
                alive = [s for s in self._servers if s.alive]
                if not alive:
                    await self._wait_for_server(changed)
                    continue
                choice = [s for s in alive if s.url not in tried] or alive
                if free := [s for s in choice if s.in_flight < self._concurrency_each]:
                    return self._take(free)
                await changed.wait()

    def _take(self, free: Sequence[_Server]) -> _Server:
        """The one of these servers that is likely to answer first, with a request more in flight."""
        fastest = min((s.seconds for s in self._servers if s.seconds), default=1.0)
        server = min(free, key=lambda s: (s.seconds or fastest) * (1 + s.in_flight / self._concurrency_each))
        for other in free:
            if other is not server and other.seconds:
                other.seconds -= _FORGOTTEN * other.seconds
        server.in_flight += 1
        return server

    async def _wait_for_server(self, changed: Condition) -> None:
        try:
            with fail_after(self._patience):
                while not any(s.alive for s in self._servers):
                    await changed.wait()
        except TimeoutError as error:
            raise self._all_dead() from error

    async def _probe_removed(self, clients: dict[str, AsyncOpenAI], changed: Condition) -> None:
        while True:
            for server in self._servers:
                if not (server.alive or server.rejects) and await self._is_healthy(clients[server.url], server):
                    server.alive = True
                    logger.warning("%s answers again and is added back.", server.url)
                    async with changed:
                        changed.notify_all()
            await sleep(self._probe_seconds)

    async def _is_healthy(self, client: AsyncOpenAI, server: _Server) -> bool:
        """Whether the server answers, with a status below 500: one without `/health` answers 404 and is healthy."""
        probe = client.with_options(max_retries=0, timeout=self._probe_seconds)
        try:
            await probe.get(f"{server.url}/health", cast_to=object)
        except self._sdk.APIStatusError as error:
            return bool(error.status_code < 500)
        except (self._sdk.APIError, ValueError) as error:
            logger.debug("%s: %s", server.url, self._line(error))
            return False
        return True

    def _remove(self, server: _Server, reason: str) -> None:
        if server.alive:
            server.alive = False
            logger.warning("%s is removed: %s", server.url, reason)

    def _all_dead(self) -> TeacherError:
        names = ", ".join(s.url for s in self._servers)
        return TeacherError(f"No server answers: {names}.", hint="Start one (vllm serve MODEL) and run this again.")


def server_url(url: str) -> str:
    """The server's URL without a trailing slash or `/v1`. Raises DlmError (UsageError) for a malformed URL."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and not parts.query
        _ = parts.port  # raises ValueError if out of range
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"Malformed server URL: {url!r}.",
            hint="Write http://host:port, and put a key into VLLM_API_KEY.",
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
