"""`dlm-trl synth instructions` on a folder of many documents: `python benchmarks/scaling_synth.py --documents 200`.

The command runs as users start it, against chat servers on this machine (real HTTP, the real openai SDK) that answer
each request with pairs about its prose. Three tables:

memory   the folder, asked by one process that is killed after a tenth of the documents, and by a second one that goes
         on: memory along the way, requests per second, and how many requests were sent twice
ways     a smaller folder, asked by one process, by two ranks, and by two processes with half of the files each; an
         answer takes `--wait` seconds
fleet    four servers: one dies halfway, one takes four times as long as the others

Client and servers share this machine's cores. CPU seconds are the client's, without the servers'.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import uvicorn

ROOT = Path(__file__).parents[1]
RANKS = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_configs" / "cpu_2proc.yaml")]
HEAD = "---\ndlm_id: 01K9SCA{:019d}\ndlm_version: 15\nbase_model: tiny\n---\n"
NOUNS = ("bridge", "mill", "tower", "well", "gate", "chapel", "lock", "barn", "quay", "school", "ferry", "library")
SYLLABLES = ("ar", "bel", "cor", "den", "el", "fa", "gar", "hol", "in", "jor", "ka", "lun", "mor", "nes", "or", "pel")
PREFERENCE = "\n::preference::\n### Prompt\nWhat is a quay?\n### Chosen\n{}\n### Rejected\n{}\n".format(
    "A bank of stone or timber along the water, at which ships lie while they are loaded and unloaded. " * 8,
    "It is a kind of key, and I will gladly tell you everything that I know about keys and about locks. " * 8,
)
PAIRS = 3  # per section, the default of --per-section
SECTIONS = 8  # of a document in ways and fleet
_ASKED = re.compile(r"Write (\d+) question and answer pairs")
_BUILT = re.compile(r"The (\w+) of (\w+) was built by (\w+ \w+),")
_DONE = re.compile(r"^(.+\.dlm): teacher ")
_PLAN = re.compile(r"requests (\d+) .*from the ledger (\d+), .*replied (\d+), failed (\d+)")


def sections(rng: random.Random, count: int, characters: int) -> list[str]:
    """Prose sections of about this length whose sentences all differ."""

    def name() -> str:
        return "".join(rng.choices(SYLLABLES, k=4)).capitalize()

    def sentence() -> str:
        about = f"The {rng.choice(NOUNS)} of {name()} was built by {name()} {name()}, who came from {name()}"
        return f"{about} with {rng.randint(2, 99)} masons and left after {rng.randint(2, 40)} summers."

    length = len(sentence()) + 1
    paragraphs = [[sentence() for _ in range(max(1, characters // length))] for _ in range(count)]
    return ["\n\n".join(" ".join(each[i : i + 8]) for i in range(0, len(each), 8)) for each in paragraphs]


def write_folder(folder: Path, documents: int, count: int, characters: int, filling: int = 0) -> int:
    """Documents with `count` sections of prose each; returns the bytes written. They differ in id and first section.

    filling: bytes of preferences in each document, which a run reads and doesn't ask about.
    """
    rng = random.Random(0)
    bodies = ["".join(f"\n::prose::\n{text}\n" for text in sections(rng, count - 1, characters)) for _ in range(20)]
    preferences = PREFERENCE * (filling // len(PREFERENCE))
    folder.mkdir()
    size = 0
    for number in range(documents):
        (first,) = sections(rng, 1, characters)
        text = f"{HEAD.format(number)}{first}\n{bodies[number % len(bodies)]}{preferences}"
        size += (folder / f"{number:06d}.dlm").write_text(text, encoding="utf-8")
    return size


def serve(address: Connection, wait: float, most: int | None) -> None:
    """A chat server; sends its address once it listens. most: exits when it gets one request more."""
    answered = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal answered
        if scope["type"] != "http":
            return
        if scope["path"] == "/count":
            await respond(send, answered)
        elif not scope["path"].endswith("/completions"):
            await respond(send, {"object": "list", "data": [{"id": "m", "object": "model"}]})
        else:
            body, more = b"", True
            while more:
                event = await receive()
                body, more = body + event["body"], event.get("more_body", False)
            if answered == most:
                os._exit(1)  # with the requests in flight
            answered += 1
            await asyncio.sleep(wait)
            await respond(send, completion(json.loads(body)["messages"][-1]["content"]))

    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    address.send(f"http://127.0.0.1:{listener.getsockname()[1]}")
    uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off")).run(sockets=[listener])


async def respond(send: Any, value: Any) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def completion(prompt: str) -> dict[str, Any]:
    """As many pairs about the prose of a prompt as it asks for, in OpenAI's format."""
    asked = _ASKED.search(prompt)
    built = islice(_BUILT.finditer(prompt), int(asked[1]) if asked else 0)
    pairs = [{"question": f"Who built the {m[1]} of {m[2]}?", "answer": f"{m[3]} built it."} for m in built]
    message = {"role": "assistant", "content": json.dumps({"pairs": pairs})}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 60, "total_tokens": len(prompt) // 4 + 60}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def server(wait: float, most: int | None = None) -> Iterator[str]:
    """A server in its own process; yields its URL."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe()
    process = context.Process(target=serve, args=(theirs, wait, most), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def requests_to(url: str) -> int:
    with urlopen(f"{url}/count") as reply:
        return int(reply.read())


@dataclass
class Watched:
    """A run of the command. memory: MB of the process after so many documents. cpu: seconds of all its processes."""

    documents: int = 0
    sent: int = 0
    from_ledger: int = 0
    replied: int = 0
    failed: int = 0
    begun: float = 0.0  # when the first document was done
    ended: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0  # MB, of the largest process
    memory: dict[int, float] = field(default_factory=dict)


def start(paths: Sequence[Path], home: Path, teacher: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the command on these files or folders. teacher: `vllm-server:…`, or the URL of a server for `openai:m`."""
    command = [sys.executable, *launcher, "-m", "dlm_trl", "synth", "instructions", *map(str, paths)]
    named = teacher if teacher.startswith("vllm") else "openai:m"
    command += ["--filter", "dedup-only", "--per-section", str(PAIRS), "--teacher", named]
    own = {"DLM_HOME": str(home), "OPENAI_BASE_URL": f"{teacher}/v1", "OPENAI_API_KEY": "any", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **own, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, start_new_session=True
    )


def watch(process: subprocess.Popen[str], marks: Sequence[int] = (), stop_after: int | None = None) -> Watched:
    """Follow a run to its end, or kill it after so many documents. Exits if it fails."""
    run = Watched()
    assert process.stdout
    for line in process.stdout:
        if found := _PLAN.search(line):
            sent, from_ledger, replied, failed = map(int, found.groups())
            run.sent, run.from_ledger = run.sent + sent, run.from_ledger + from_ledger
            run.replied, run.failed = run.replied + replied, run.failed + failed
        if _DONE.match(line):
            run.documents += 1
            run.begun = run.begun or time.monotonic()
            if run.documents in marks:
                run.memory[run.documents] = resident(process.pid)
            if run.documents == stop_after:
                os.killpg(process.pid, signal.SIGKILL)
                break
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"The run ended with {process.returncode}.")
    run.ended, run.cpu = time.monotonic(), usage.ru_utime + usage.ru_stime
    run.peak = usage.ru_maxrss * 1024 / 1e6
    return run


def resident(pid: int) -> float:
    """Memory of a process now, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(folder: Path, home: Path, documents: int, needed: int) -> None:
    """One run that is killed after a tenth of the documents, and one that goes on."""
    tenth = max(1, documents // 10)
    marks = sorted({max(1, documents // 100), tenth, documents})
    with server(wait=0.02) as url:
        killed = watch(start([folder], home, url), marks, stop_after=tenth)
        asked = requests_to(url)
        resumed = watch(start([folder], home, url), marks)
        twice = requests_to(url) - needed
    if resumed.failed or resumed.replied != needed:
        sys.exit(f"{needed - resumed.replied} requests without a reply, {resumed.failed} failed.")
    print("\n| run | documents | requests | per second | CPU ms per request | MB after documents | peak MB |")
    print("|---|---:|---:|---:|---:|---|---:|")
    for name, run, requests in (("killed", killed, asked), ("resumed", resumed, needed + twice - asked)):
        along = ", ".join(f"{count:,}: {megabytes:.0f}" for count, megabytes in run.memory.items())
        print(
            f"| {name} | {run.documents:,} | {requests:,} | {requests / (run.ended - run.begun):.1f} | "
            f"{run.cpu / requests * 1000:.1f} | {along} | {run.peak:.0f} |"
        )
    print(f"Requests sent twice because of the kill: {twice} of {needed:,}.")
    first, last = resumed.memory[marks[0]], resumed.memory[marks[-1]]
    print(f"Memory after {marks[-1]:,} documents against after {marks[0]:,}: {last / first:.2f} times.")


def ways(folder: Path, scratch: Path, needed: int, wait: float) -> None:
    """One process, two ranks, and two processes with half of the files each."""
    files = sorted(folder.iterdir())
    halves = [files[::2], files[1::2]]
    runs: dict[str, tuple[float, float, int]] = {}
    for name in ("one process", "two ranks", "two processes, half of the files each"):
        with server(wait) as url:
            parts, launcher = (halves, ()) if "half" in name else ([[folder]], RANKS if "ranks" in name else ())
            homes = [scratch / f"{name}-{part}" for part in range(len(parts))]
            started = [start(part, home, url, launcher) for part, home in zip(parts, homes, strict=True)]
            with ThreadPoolExecutor() as pool:
                done = list(pool.map(watch, started))
            seconds = max(run.ended for run in done) - min(run.begun for run in done)  # without the imports
            runs[name] = seconds, sum(run.cpu for run in done), requests_to(url)
        if any(run.failed for run in done) or sum(run.replied for run in done) != needed:
            sys.exit(f"{name}: requests failed.")
    base = next(iter(runs.values()))[0]
    print(f"\n| {len(files)} documents, {needed} requests of {wait} s | seconds | per second | ratio | CPU seconds |")
    print("|---|---:|---:|---:|---:|")
    for name, (seconds, cpu, asked) in runs.items():
        again = f", {asked - needed} sent twice" if asked != needed else ""
        print(f"| {name}{again} | {seconds:.1f} | {needed / seconds:.1f} | {base / seconds:.2f} | {cpu:.1f} |")


def fleet(folder: Path, home: Path, needed: int, wait: float) -> None:
    """Four servers, of which the second takes four times as long and the third dies after an eighth of the requests."""
    waits = [wait, 4 * wait, wait, wait]
    names = ["as fast as the others", f"slow ({4 * wait:g} s)", "dies halfway", "as fast as the others"]
    with ExitStack() as stack:
        urls = [stack.enter_context(server(w, needed // 8 if i == 2 else None)) for i, w in enumerate(waits)]
        run = watch(start([folder], home, f"vllm-server:{','.join(urls)}"))
        counts = [needed // 8 if i == 2 else requests_to(url) for i, url in enumerate(urls)]
    if run.failed or run.replied != needed:
        sys.exit(f"Of {needed} requests, {run.replied} were answered and {run.failed} failed.")
    print(f"\n| {run.documents} document(s), {needed} requests | requests | against the first |\n|---|---:|---:|")
    for name, count in zip(names, counts, strict=True):
        print(f"| {name} | {count} | {count / counts[0]:.2f} |")
    rate = needed / (run.ended - run.begun)
    print(f"No request failed, {sum(counts) - needed} were sent twice; {rate:.1f} per second.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--kilobytes", type=int, default=50, help="of a document (default: %(default)s)")
    parser.add_argument("--prose", type=int, help="kilobytes of prose; the rest are preferences (default: all)")
    parser.add_argument("--sections", type=int, default=4, help="per document, a request each (default: %(default)s)")
    parser.add_argument("--few", type=int, default=30, help="documents of ways and fleet (default: %(default)s)")
    parser.add_argument("--wait", type=float, default=0.5, help="seconds per answer (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="create the temporary folder here")
    parser.add_argument("--tables", nargs="+", choices=["memory", "ways", "fleet"], default=["memory", "ways", "fleet"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        scratch, prose = Path(name), options.prose or options.kilobytes
        if "memory" in options.tables:
            sizes = prose * 1000 // options.sections, (options.kilobytes - prose) * 1000
            size = write_folder(scratch / "many", options.documents, options.sections, *sizes)
            print(f"{options.documents:,} documents, {size / 1e6:,.0f} MB, {prose} kB of prose each", flush=True)
            needed = options.documents * options.sections
            memory(scratch / "many", scratch / "home", options.documents, needed)
        write_folder(scratch / "few", options.few, SECTIONS, 1000)
        if "ways" in options.tables:
            ways(scratch / "few", scratch, options.few * SECTIONS, options.wait)
        if "fleet" in options.tables:
            fleet(scratch / "few", scratch / "fleet", options.few * SECTIONS, options.wait)
            write_folder(scratch / "one", 1, options.few * SECTIONS, 1000)
            fleet(scratch / "one", scratch / "fleet of one", options.few * SECTIONS, options.wait)


if __name__ == "__main__":
    main()
