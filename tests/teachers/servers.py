"""Real servers for the API teachers (uvicorn on a free port of localhost) that answer and fail on demand.

    app = App(lambda call: Answer(status=500) if call.attempt == 1 else None)
    with serve(app) as url: …                     # in a thread of this process
    with process("--name", "a") as (url, p): …    # in a subprocess that can be killed: p.kill()

`App` implements OpenAI's chat completions and Anthropic's messages. Its rule decides the answer to each request; None
means the default, which repeats the prompt. `process` runs this file as a program.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """A request as received; attempt numbers the requests with the same prompt from 1."""

    body: dict[str, Any]
    headers: dict[str, str]
    attempt: int
    at: float

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Answer:
    """A response, sent after `wait` seconds. body: None repeats the prompt. cut: abort half way."""

    status: int = 200
    body: bytes | dict[str, Any] | list[Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    cut: bool = False


def completion(text: str | None, prompt_tokens: int = 7, completion_tokens: int = 3) -> dict[str, Any]:
    """A chat completion in OpenAI's format."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": 0}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def message(text: str, stop_reason: str = "end_turn") -> dict[str, Any]:
    """A message in Anthropic's format."""
    usage = {"input_tokens": 7, "output_tokens": 3}
    content = [{"type": "text", "text": text}] if text else []
    parts = {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": content}
    return parts | {"stop_reason": stop_reason, "stop_sequence": None, "usage": usage}


@dataclass
class App:
    """The ASGI application. calls: the requests received. most: the largest number in flight at once."""

    rule: Callable[[Call], Answer | None] = lambda call: None
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "m", "object": "model"}])
    health: int = 200
    reply: Callable[[Call], Awaitable[str]] | None = None
    calls: list[Call] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    most: int = 0
    now: int = 0
    left: int = 0  # requests whose client disconnected before the answer

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/health":
            await _send(send, Answer(status=self.health))
        elif scope["path"].endswith("/models"):
            await _send(send, Answer(body={"object": "list", "data": self.models}))
        else:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await self._answer(scope, receive, send)
            finally:
                self.now -= 1

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = json.loads(await _body(receive))
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        prompt = body["messages"][-1]["content"]
        self.attempts[prompt] += 1
        call = Call(body, headers, self.attempts[prompt], time.monotonic())
        self.calls.append(call)
        answer = self.rule(call) or Answer()
        if answer.wait and await _gone(receive, answer.wait):
            self.left += 1
            return
        if answer.body is None and answer.status == 200:
            text = await self.reply(call) if self.reply else f"re: {call.prompt}"
            made = message(text) if scope["path"].endswith("/messages") else completion(text)
            answer = Answer(200, made, answer.headers, cut=answer.cut)
        await _send(send, answer)


async def _body(receive: Any) -> bytes:
    parts = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _gone(receive: Any, seconds: float) -> bool:
    """Whether the client disconnects within this time."""
    try:
        await asyncio.wait_for(receive(), seconds)
    except TimeoutError:
        return False
    return True


async def _send(send: Any, answer: Answer) -> None:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **answer.headers}
    start = {"type": "http.response.start", "status": answer.status}
    await send(start | {"headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
    if answer.cut:
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        raise ConnectionAbortedError("cut on demand")
    await send({"type": "http.response.body", "body": body})


def free_port() -> int:
    """An unused port of localhost."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(app: App, port: int | None = None) -> Iterator[str]:
    """Serve the application on localhost, in a thread; yields its URL."""
    port = port or free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        _wait_for(port, thread.is_alive)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@contextmanager
def process(*arguments: str, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run this file in a separate process group; yields its URL and the process."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.teachers.servers", "--port", str(port), *arguments]
    with launched(command, port) as child:
        yield f"http://127.0.0.1:{port}", child


@contextmanager
def launched(command: list[str], port: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, wait until it listens on a port, and kill it at the end."""
    child = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, start_new_session=True)
    try:
        _wait_for(port, lambda: child.poll() is None)
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _wait_for(port: int, running: Callable[[], bool]) -> None:
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert running(), "the server ended before it listened"
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", help="answer with this name")
    parser.add_argument("--wait", type=float, default=0.0)
    options = parser.parse_args()

    async def name(call: Call) -> str:
        return str(options.name)

    app = App(lambda call: Answer(wait=options.wait), reply=name)
    uvicorn.run(app, port=options.port, log_level="critical", lifespan="off")


if __name__ == "__main__":
    main()
