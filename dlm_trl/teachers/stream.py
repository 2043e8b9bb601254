"""Send requests to a server and yield the replies as they complete: `stream(session, requests, concurrency=16)`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, suppress

from anyio import EndOfStream, create_memory_object_stream, create_task_group
from anyio.from_thread import start_blocking_portal

from dlm_trl.notes.errors import DlmError
from dlm_trl.teachers.protocol import Reply, Request

Ask = Callable[[Request], Awaitable[Reply]]
Session = Callable[[], AbstractAsyncContextManager[Ask]]


def stream(session: Session, requests: Sequence[Request], concurrency: int) -> Generator[Reply]:
    """Yields replies as they complete; the requests are sent from an event loop in another thread.

    At most `concurrency` requests are in flight, counting those whose reply hasn't been consumed, so a consumer that
    stops also stops the sending. Close the iterator to stop early. After a DlmError no further request is sent, the
    replies to those in flight are still yielded, and then it is raised.
    """
    if not requests:
        return
    failures: list[DlmError] = []
    pending = iter(requests)
    send, receive = create_memory_object_stream[Reply](0)

    async def worker(ask: Ask) -> None:
        for request in pending:
            try:
                reply = await ask(request)
            except DlmError as error:
                failures.append(error)
            else:
                await send.send(reply)
            if failures:
                return

    async def send_all() -> None:
        async with send, session() as ask, create_task_group() as group:
            for _ in range(min(concurrency, len(requests))):
                group.start_soon(worker, ask)

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(receive):
        sending = portal.start_task_soon(send_all)
        with suppress(EndOfStream):
            while True:
                yield portal.call(receive.receive)
        sending.result()
    if failures:
        raise failures[0]
