"""A fleet of vLLM servers with one model: `VllmTeacher(["http://a:8000", "http://b:8000"])`.

Each request goes to the server with the fewest under way, at most `concurrency` to each. A server that no longer
answers is left out, with one warning, and its requests go to the others; it is probed every few seconds and taken back
when it answers. One that does not have the model, or does not take the key, is left out for good. Only when none has
answered for `patience` seconds does the run end. A server with `--api-key` gets the key from VLLM_API_KEY. Any server
with `/v1/models` and `/v1/chat/completions` will do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from anyio import Condition, create_task_group, fail_after, sleep

from dlm_trl.notes.errors import TeacherError, UsageError
from dlm_trl.teachers.openai import ChatTeacher
from dlm_trl.teachers.protocol import Reply, Request
from dlm_trl.teachers.remote import CONNECT_SECONDS, HOPELESS, Answer, Ask

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

PROBE_SECONDS = 5.0  # how long a probe may take, and the pause between two probes of a server that is left out


@dataclass
class _Server:
    url: str  # without /v1
    alive: bool = True
    refuses: bool = False  # it answers, but would refuse every request
    under_way: int = 0


class VllmTeacher(ChatTeacher):
    """model None takes the first that the first living server lists; all living ones must list it then. context is the
    smallest `max_model_len` that they tell, None where none does.

    timeout is in seconds for one try, max_retries the SDK's, few: they decide how soon a dead server is noticed. One
    `generate` at a time. Raises DlmError: MissingExtraError, UsageError for an address that is none, TeacherError
    where no server answers, here or later in `generate`.
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
        self._servers = [_Server(url) for url in dict.fromkeys(map(root, urls))]
        self._concurrency = concurrency * len(self._servers)
        self._concurrency_each = concurrency
        self._patience = patience
        self._probe_seconds = probe_seconds
        self._look(model)

    def _look(self, model: str | None) -> None:
        """Asks every server what it serves; sets `revision` and `context`."""
        listed: dict[str, dict[str, dict[str, Any]]] = {}
        for server in self._servers:
            quick = {"base_url": f"{server.url}/v1", "timeout": CONNECT_SECONDS, "max_retries": 1}
            with self._open("OpenAI", **quick) as client:
                try:
                    models = client.models.list().data
                    listed[server.url] = {m.id: m.to_dict() for m in models}
                except (self._sdk.APIError, ValueError, AttributeError, TypeError) as error:
                    if getattr(error, "status_code", None) in HOPELESS:
                        raise self._error(error, server.url) from error
                    self._leave_out(server, self._line(error))
        if not listed:
            raise self._all_dead()
        self._answered = True
        self.revision = model or next((name for models in listed.values() for name in models), "")
        if not self.revision:
            raise TeacherError(f"{', '.join(listed)} lists no model.", hint="Name it: vllm-server:URL#MODEL.")
        for url, models in listed.items():
            if model is None and self.revision not in models:
                raise TeacherError(
                    f"{url} does not serve {self.revision!r}; it lists {sorted(models)}.",
                    hint="Give servers of one model, or name one that all of them have: vllm-server:URL,URL#MODEL.",
                )
        lengths = [models.get(self.revision, {}).get("max_model_len") for models in listed.values()]
        self.context = min((n for n in lengths if isinstance(n, int)), default=None)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Ask]:
        changed = Condition()  # told when a server has room again or is back
        async with AsyncExitStack() as stack:
            clients: dict[str, AsyncOpenAI] = {}
            for server in self._servers:
                server.under_way = 0
                client = self._open("AsyncOpenAI", base_url=f"{server.url}/v1")
                clients[server.url] = await stack.enter_async_context(client)

            async def ask(request: Request) -> Reply:
                return await self._reply(request, lambda: self._exchange(request, clients, changed))

            async with create_task_group() as group:
                group.start_soon(self._watch, clients, changed)
                yield ask
                group.cancel_scope.cancel()

    async def _exchange(self, request: Request, clients: dict[str, AsyncOpenAI], changed: Condition) -> Answer:
        """Asks one server after the other until one answers, or it is the request that fails and not the server."""
        tried: set[str] = set()
        while True:
            server = await self._free_server(changed, tried)
            tried.add(server.url)
            try:
                return await self._complete(clients[server.url], request)
            except (self._sdk.APIConnectionError, self._sdk.APIStatusError) as error:
                if not await self._goes_on(error, clients[server.url], server, tried):
                    raise
            finally:
                server.under_way -= 1
                async with changed:
                    changed.notify_all()

    async def _goes_on(self, error: Exception, client: AsyncOpenAI, server: _Server, tried: set[str]) -> bool:
        """Whether a request that failed so may go to another server; a server that is of no use is left out."""
        others = any(s.alive and s.url not in tried for s in self._servers)
        status = error.status_code if isinstance(error, self._sdk.APIStatusError) else 500
        if status in HOPELESS:
            if others:
                server.refuses = True
                self._leave_out(server, self._line(error))
            return others
        if status < 500:
            return False
        if not await self._answers(client, server):
            self._leave_out(server, self._line(error))
            return True
        # One that is in health and yet fails at once would draw all requests, being always the one with the fewest.
        return others and not isinstance(error, self._sdk.APITimeoutError)

    async def _free_server(self, changed: Condition, tried: set[str]) -> _Server:
        """The living server with the fewest requests under way, one more now, of those that were not tried if there is
        one; waits for room. Raises DlmError.
        """
        async with changed:
            while True:
                living = [s for s in self._servers if s.alive]
                if not living:
                    await self._wait_for_any(changed)
                    continue
                server = min([s for s in living if s.url not in tried] or living, key=lambda s: s.under_way)
                if server.under_way < self._concurrency_each:
                    server.under_way += 1
                    return server
                await changed.wait()

    async def _wait_for_any(self, changed: Condition) -> None:
        try:
            with fail_after(self._patience):
                while not any(s.alive for s in self._servers):
                    await changed.wait()
        except TimeoutError as error:
            raise self._all_dead() from error

    async def _watch(self, clients: dict[str, AsyncOpenAI], changed: Condition) -> None:
        while True:
            for server in self._servers:
                if not (server.alive or server.refuses) and await self._answers(clients[server.url], server):
                    server.alive = True
                    logger.warning("%s answers again and is taken back.", server.url)
                    async with changed:
                        changed.notify_all()
            await sleep(self._probe_seconds)

    async def _answers(self, client: AsyncOpenAI, server: _Server) -> bool:
        """Whether the server is in health; one that does not know the question but answers it with a 404 is."""
        probe = client.with_options(max_retries=0, timeout=self._probe_seconds)
        try:
            await probe.get(f"{server.url}/health", cast_to=object)
        except self._sdk.APIStatusError as error:
            return bool(error.status_code < 500)
        except (self._sdk.APIError, ValueError) as error:
            logger.debug("%s: %s", server.url, self._line(error))
            return False
        return True

    def _leave_out(self, server: _Server, reason: str) -> None:
        if server.alive:
            server.alive = False
            logger.warning("%s is left out: %s", server.url, reason)

    def _all_dead(self) -> TeacherError:
        names = ", ".join(s.url for s in self._servers)
        return TeacherError(f"No server answers: {names}.", hint="Start one (vllm serve MODEL) and run this again.")


def root(url: str) -> str:
    """The address without a final `/v1` or slash. Raises DlmError (UsageError) for what is no address."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and not parts.query
        _ = parts.port  # raises ValueError for one that no server can have
    except ValueError:
        is_one = False
    if not is_one:
        raise UsageError(
            f"{url.rpartition('@')[2]!r} is not the address of a server.",
            hint="Write http://host:port; a key belongs into VLLM_API_KEY.",
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
