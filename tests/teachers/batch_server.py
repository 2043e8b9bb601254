"""A server with the batch APIs of OpenAI and Anthropic as they are documented, beside those of `servers.App`.

    app = BatchApp(fate=lambda call: "expired" if call.prompt == "b" else None)
    with serve(app) as url: …

A batch ends when it was polled often enough. Its results come in reverse order. It refuses what the providers refuse:
batches that are too large, ids that are repeated or malformed.
"""

import asyncio
import email
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qs

from tests.teachers.servers import Answer, App, Call, _body, _send, completion, message

Fate = Answer | Literal["expired", "cancelled", "lost"] | None


@dataclass
class Batch:
    """entries: the bodies of the requests by id. problem: OpenAI's reason to refuse it, and its code."""

    id: str
    entries: dict[str, dict[str, Any]]
    metadata: dict[str, str] | None = None
    created: float = field(default_factory=time.time)
    polls: int = 0
    problem: str | None = None
    code: str = "token_limit_exceeded"
    is_cancelled: bool = False


@dataclass
class BatchApp(App):
    """fate: what becomes of a request in a batch; None answers it like any other. holds: no batch ends.

    polls: how often each batch is polled until it has ended. wait: seconds between the creation of a batch and the
    answer to the request that created it; refusal: that answer. asked: how often each prompt was in a batch.
    """

    fate: Callable[[Call], Fate] = lambda call: None
    has_batches: bool = True
    holds: bool = False
    polls: int = 2
    wait: float = 0.0
    refusal: Answer | None = None
    max_requests: int = 100_000
    queue: int = 100_000  # requests that an account may have in the queue: OpenAI refuses larger batches later
    batches: list[Batch] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    out: int = 0  # so many requests about batches are answered by 503

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "").removeprefix("/v1")
        if not (path.startswith("/files") or "/batches" in path):
            await super().__call__(scope, receive, send)
            return
        body = await _body(receive)
        if self.out:
            self.out -= 1
            answer = Answer(503, {"error": {"message": "overloaded"}})
        elif not self.has_batches:
            answer = Answer(404, {"error": {"message": "Not Found"}})
        elif path.startswith("/messages"):
            answer = await self._anthropic(scope, path.removeprefix("/messages/batches").strip("/"), body)
        else:
            answer = await self._openai(scope, path, body)
        await _send(send, answer)

    async def _openai(self, scope: dict[str, Any], path: str, body: bytes) -> Answer:
        match path.strip("/").split("/"), scope["method"]:
            case ["files"], "POST":
                content_type = dict(scope["headers"])[b"content-type"]
                parts = email.message_from_bytes(b"Content-Type: " + content_type + b"\n\n" + body).get_payload()
                by_name = {part.get_param("name", header="content-disposition"): part for part in parts}
                assert by_name["purpose"].get_payload() == "batch"
                name = f"file-{len(self.files)}"
                self.files[name] = by_name["file"].get_payload(decode=True)
                return Answer(body={"id": name, "object": "file", "purpose": "batch", "bytes": len(self.files[name])})
            case ["files", name, "content"], "GET" if name in self.files:
                return Answer(body=self.files[name])
            case ["batches"], "POST":
                order = json.loads(body)
                assert (order["endpoint"], order["completion_window"]) == ("/v1/chat/completions", "24h")
                lines = [json.loads(line) for line in self.files[order["input_file_id"]].splitlines()]
                assert {(line["method"], line["url"]) for line in lines} == {("POST", order["endpoint"])}
                return await self._created(
                    [(line["custom_id"], line["body"]) for line in lines], order.get("metadata"), self._openai_batch
                )
            case ["batches"], "GET":
                return self._listed(scope, "after", self._openai_batch)
            case ["batches", name], "GET" if name in (known := {batch.id: batch for batch in self.batches}):
                known[name].polls += 1
                await self._write_files(known[name])
                return Answer(body=self._openai_batch(known[name]))
        return Answer(404, {"error": {"message": f"No such object: {path}"}})

    def _openai_batch(self, batch: Batch) -> dict[str, Any]:
        total, fates = len(batch.entries), [self._fate(body) for body in batch.entries.values()]
        parts = {"id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        parts |= {"created_at": int(batch.created), "metadata": batch.metadata, "input_file_id": "file"}
        if batch.problem:
            errors = {"object": "list", "data": [{"code": batch.code, "message": batch.problem}]}
            return parts | {"status": "failed", "errors": errors}
        if not self._has_ended(batch):
            return parts | {"status": "in_progress", "request_counts": {"total": total, "completed": 0, "failed": 0}}
        status = "cancelled" if batch.is_cancelled else "expired" if "expired" in fates else "completed"
        failed = sum(fate is not None for fate in fates)
        files = {
            f"{kind}_file_id": name for kind in ("output", "error") if (name := f"{batch.id}-{kind}") in self.files
        }
        counts = {"total": total, "completed": total - failed, "failed": failed}
        return parts | {"status": status, "request_counts": counts} | files

    async def _write_files(self, batch: Batch) -> None:
        """The output and error files of a batch that has ended; only those that have lines."""
        lines: dict[str, list[bytes]] = {"output": [], "error": []}
        for key, body in reversed(batch.entries.items() if self._has_ended(batch) else {}.items()):
            fate, line = self._fate(body), {"id": "batch_req", "custom_id": key, "response": None, "error": None}
            match fate:
                case "lost":
                    continue
                case "expired" | "cancelled":
                    line["error"] = {"code": f"batch_{fate}", "message": f"This request {fate}."}
                case None:
                    line["response"] = {"status_code": 200, "request_id": "r", "body": await self._reply(body)}
                case Answer():
                    line["response"] = {"status_code": fate.status, "request_id": "r", "body": fate.body}
            is_error = fate is not None and not (isinstance(fate, Answer) and fate.status == 200)
            # Like the provider: not ASCII.
            lines["error" if is_error else "output"].append(json.dumps(line, ensure_ascii=False).encode())
        self.files |= {f"{batch.id}-{kind}": b"\n".join(found) for kind, found in lines.items() if found}

    async def _anthropic(self, scope: dict[str, Any], path: str, body: bytes) -> Answer:
        known = {batch.id: batch for batch in self.batches}
        match path.split("/"), scope["method"]:
            case [""], "POST":
                entries = [(entry["custom_id"], entry["params"]) for entry in json.loads(body)["requests"]]
                return await self._created(entries, None, lambda batch: self._message_batch(batch, scope))
            case [""], "GET":
                return self._listed(scope, "after_id", lambda batch: self._message_batch(batch, scope))
            case [name], "GET" if name in known:
                known[name].polls += 1
                return Answer(body=self._message_batch(known[name], scope))
            case [name, "results"], "GET" if name in known:
                lines = [await self._message_result(*entry) for entry in reversed(known[name].entries.items())]
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines if line)
                return Answer(body=text.encode(), headers={"content-type": "application/x-jsonl"})
        error = {"type": "not_found_error", "message": f"No such batch: {path}"}
        return Answer(404, {"type": "error", "error": error})

    def _message_batch(self, batch: Batch, scope: dict[str, Any]) -> dict[str, Any]:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        url = None
        if has_ended := self._has_ended(batch):
            host = dict(scope["headers"])[b"host"].decode()
            url = f"http://{host}/v1/messages/batches/{batch.id}/results"
            for body in batch.entries.values():
                match self._fate(body):
                    case "expired":
                        counts["expired"] += 1
                    case "cancelled":
                        counts["canceled"] += 1
                    case Answer(status=status) if status != 200:
                        counts["errored"] += 1
                    case _:
                        counts["succeeded"] += 1
        else:
            counts["processing"] = len(batch.entries)
        created = datetime.fromtimestamp(batch.created, UTC).isoformat()
        parts = {"id": batch.id, "type": "message_batch", "created_at": created, "expires_at": created}
        status = "ended" if has_ended else "in_progress"
        times = {"archived_at": None, "cancel_initiated_at": created if batch.is_cancelled else None}
        return parts | times | {"processing_status": status, "request_counts": counts, "results_url": url}

    async def _message_result(self, key: str, body: dict[str, Any]) -> dict[str, Any] | None:
        match fate := self._fate(body):
            case "lost":
                return None
            case "expired" | "cancelled":
                result: dict[str, Any] = {"type": fate.replace("ll", "l")}
            case Answer(status=status) if status != 200:
                result = {"type": "errored", "error": fate.body}
            case _:
                made = await self._reply(body, message) if fate is None else fate.body
                result = {"type": "succeeded", "message": made}
        return {"custom_id": key, "result": result}

    async def _created(
        self, entries: list[tuple[str, dict[str, Any]]], metadata: dict[str, str] | None, shown: Callable[[Batch], Any]
    ) -> Answer:
        keys = [key for key, _ in entries]
        assert len(set(keys)) == len(keys) and all(re.fullmatch(r"[\w-]{1,64}", key) for key in keys)
        if len(keys) > self.max_requests:
            return Answer(400, {"error": {"message": "The batch has too many requests."}})
        problem = "Enqueued token limit reached." if len(keys) > self.queue else None
        self.batches.append(Batch(f"batch_{len(self.batches)}", dict(entries), metadata, problem=problem))
        self.asked.update(body["messages"][-1]["content"] for _, body in entries)
        if self.wait:
            await asyncio.sleep(self.wait)
        return self.refusal or Answer(body=shown(self.batches[-1]))

    def _listed(self, scope: dict[str, Any], cursor: str, shown: Callable[[Batch], Any]) -> Answer:
        """A page of the batches, the newest first."""
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        newest = self.batches[::-1]
        ids = [batch.id for batch in newest]
        start = ids.index(query[cursor]) + 1 if cursor in query else 0
        page = newest[start : start + min(int(query["limit"]), 2)]  # a page is small, so that tests have several
        parts = {"object": "list", "data": [shown(batch) for batch in page]}
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        return Answer(body=parts | ends | {"has_more": start + len(page) < len(newest)})

    def _has_ended(self, batch: Batch) -> bool:
        return not self.holds and batch.polls >= self.polls

    def _call(self, body: dict[str, Any]) -> Call:
        return Call(body, {}, self.asked[body["messages"][-1]["content"]], time.monotonic())

    def _fate(self, body: dict[str, Any]) -> Fate:
        return self.fate(self._call(body))

    async def _reply(self, body: dict[str, Any], made: Callable[[str], dict[str, Any]] = completion) -> dict[str, Any]:
        call = self._call(body)
        return made(await self.reply(call) if self.reply else f"re: {call.prompt}")
