"""How fast pairs are synthesised: `python benchmarks/synth.py [--sections N] [--concurrency 16,64]`.

Local: the tiny base writes pairs about paragraphs that it never saw, in batches and one request at a time (as the
format's reference implementation does). The two alternate, and their replies are compared. Remote: 500 requests of
`dlm-trl synth` to a local server that takes 200 ms for each, including the ledger and the filter `none`, against the
ideal: requests x 0.2 s / concurrency. Prints one line of JSON each.

`python benchmarks/synth.py --vllm http://localhost:8000 --base smollm2-135m` instead compares a vLLM server with the
`hf:` teacher of the same base, which alternate, on the requests of `dlm-trl synth instructions recipes/notes.dlm
--strategy both`. Give both the same number of threads (OMP_NUM_THREADS).
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import platform
import socket
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request

from dlm_trl import tiny
from dlm_trl.notes import parse, read
from dlm_trl.synth.plan import plan
from dlm_trl.synth.replies import parse_reply
from dlm_trl.synth.run import synthesize
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.teachers.load import load_teacher

NOTES = Path(__file__).parents[1] / "recipes" / "notes.dlm"
LATENCY = 0.2
HEAD = "---\ndlm_id: 01JTRXBENCH00000000000000A\nbase_model: tiny\n---\n"


def document(count: int) -> str:
    """A document with `count` sections, each a paragraph that the tiny base never saw."""
    rows = [json.loads(line) for line in (tiny.path() / "held_out.jsonl").read_text().splitlines()]
    return HEAD + "".join(f"\n::prose::\n{i}. {rows[i % len(rows)]['prose']}\n" for i in range(count))


def local(sections: int, rounds: int) -> dict[str, Any]:
    """Pairs per second in batches and one by one (best round of each), their ratio, and the share of equal replies."""
    notes = parse(document(sections))
    teacher = load_teacher("hf:tiny", notes)
    requests = [ask.request for ask in plan(notes, SynthSettings(teacher="hf:tiny", max_new_tokens=200), teacher)]
    best = {"batched": float("inf"), "one by one": float("inf")}
    for _ in range(rounds):
        started = time.perf_counter()
        batched = {reply.key: reply.text for reply in teacher.generate(requests)}
        best["batched"] = min(best["batched"], time.perf_counter() - started)
        started = time.perf_counter()
        single = {reply.key: reply.text for request in requests for reply in teacher.generate([request])}
        best["one by one"] = min(best["one by one"], time.perf_counter() - started)
    pairs = sum(len(parse_reply(text).pairs) for text in batched.values())
    return {
        "requests": len(requests),
        "pairs_per_second": {name: round(pairs / seconds, 2) for name, seconds in best.items()},
        "ratio": round(best["one by one"] / best["batched"], 2),
        "equal_replies": sum(batched[key] == single[key] for key in single) / len(single),
    }


def against_vllm(url: str, base: str, rounds: int) -> dict[str, Any]:
    """New tokens per second of both teachers (best round of each), and their ratio.

    vLLM must follow the JSON schema and a local teacher needn't, so the two write different texts.
    """
    notes = read(NOTES)
    requests, teachers = {}, {}
    for name, reference in {"vllm": f"vllm-server:{url}", "hf": f"hf:{base}"}.items():
        teachers[name] = load_teacher(reference, notes)
        asks = plan(notes, SynthSettings(teacher=reference, strategy="both"), teachers[name])
        requests[name] = [ask.request for ask in asks]
    best = dict.fromkeys(teachers, 0.0)
    tokens = dict.fromkeys(teachers, 0)
    for _ in range(rounds):
        for name, teacher in teachers.items():
            started = time.perf_counter()
            replies = list(teacher.generate(requests[name]))
            seconds = time.perf_counter() - started
            if errors := [reply.error for reply in replies if reply.error]:
                raise SystemExit(f"{teacher.reference}: {errors[0]}")
            tokens[name] = sum(reply.usage.completion_tokens for reply in replies)
            best[name] = max(best[name], tokens[name] / seconds)
    return {
        "requests": {name: len(planned) for name, planned in requests.items()},
        "tokens": tokens,
        "tokens_per_second": {name: round(speed, 1) for name, speed in best.items()},
        "ratio": round(best["hf"] / best["vllm"], 2),
    }


def remote(requests: int, concurrency: int) -> dict[str, Any]:
    """Seconds of a whole run against the ideal; the server runs in its own process."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DLM_HOME": folder, "OPENAI_BASE_URL": f"{ours.recv()}/v1", "OPENAI_API_KEY": "none"}
        path = Path(folder) / "notes.dlm"
        path.write_text(document(requests))
        settings = SynthSettings(teacher="openai:slow", filter="none", concurrency=concurrency)
        done = synthesize(path, settings)
    server.kill()
    ideal = requests * LATENCY / concurrency
    return {
        "requests": done.counts.sent,
        "pairs": done.counts.kept,
        "concurrency": concurrency,
        "seconds": round(done.seconds, 2),
        "ideal": round(ideal, 2),
        "ratio": round(done.seconds / ideal, 2),
    }


def serve(address: Connection) -> None:
    """A chat server that answers every request after LATENCY seconds; sends its address once it listens."""
    app = FastAPI()
    numbers = itertools.count()

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> dict[str, Any]:
        await request.body()
        await asyncio.sleep(LATENCY)
        text = json.dumps([{"question": f"What is number {next(numbers)}?", "answer": "A number."}])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
        return {
            "id": "x", "object": "chat.completion", "created": 0, "model": "slow", "choices": [choice], "usage": usage,
        }  # fmt: skip

    listener = socket.create_server(("127.0.0.1", 0))
    address.send(f"http://127.0.0.1:{listener.getsockname()[1]}")  # a client that connects now waits until it runs
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=48, help="requests in the local part (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=500, help="requests in the remote part (default: %(default)s)")
    parser.add_argument("--concurrency", default="16,64", help="requests in flight (default: %(default)s)")
    parser.add_argument("--vllm", metavar="URL", help="only compare a vLLM server with the hf: teacher of --base")
    parser.add_argument(
        "--base", metavar="NAME", default="smollm2-135m", help="the served model (default: %(default)s)"
    )
    args = parser.parse_args()
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    print(json.dumps({"machine": machine}), flush=True)
    if args.vllm:
        print(json.dumps({"vllm": against_vllm(args.vllm, args.base, args.rounds)}), flush=True)
        return
    print(json.dumps({"local": local(args.sections, args.rounds)}), flush=True)
    for number in args.concurrency.split(","):
        print(json.dumps({"remote": remote(args.requests, int(number))}), flush=True)


if __name__ == "__main__":
    main()
