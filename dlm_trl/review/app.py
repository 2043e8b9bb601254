"""The routes of the review page: `application(Review("notes.dlm"), token)`, an ASGI application.

Every address begins with the token, so other programs and websites on this machine can't use them. Requests for another
host name are refused, so no website can reach the page by a name of its own (DNS rebinding). The page may load nothing
from elsewhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.escape import printable_json
from dlm_trl.review.decisions import Decision, Review
from dlm_trl.review.view import page, pair_fields, read_prose
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.rejected import Rejected

HOSTS = ("127.0.0.1", "localhost")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_TYPES = {"css": "text/css", "js": "text/javascript"}
_FILES = {"": ("page.html", "text/html")} | {
    name: (name, _TYPES[name.rpartition(".")[2]]) for name in ("page.css", "text.js", "coverage.js", "page.js")
}


class _Asked(BaseModel):
    """The body of a POST. version: of the document that the page shows. state: in which it shows the pair."""

    model_config = ConfigDict(extra="forbid")

    version: int
    id: str = ""
    question: str | None = None
    answer: str | None = None
    state: Literal["staged", "rejected"] = "staged"


def application(review: Review, token: str) -> ASGIApp:
    """The page for this review, at the path `/TOKEN/`."""

    async def state(request: Request) -> Response:
        review.reload()
        return _json(page(review))

    def decision(decide: Callable[[_Asked], Decision]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                asked = _Asked.model_validate_json(await request.body())
            except ValidationError as error:
                return _json({"error": f"The request can't be read: {error.errors()[0]['msg']}."}, 400)
            return _json(_decided(review, decide(asked)))

        return answer

    def accept(asked: _Asked) -> Decision:
        has_texts = asked.question is not None and asked.answer is not None
        pair = QAPair(asked.question or "", asked.answer or "") if has_texts else None
        return review.accept(asked.id, asked.version, pair, asked.state)

    routes = [
        *(Route(f"/{path}", _file(name, kind)) for path, (name, kind) in _FILES.items()),
        Route("/state", state),
        Route("/accept", decision(accept), methods=["POST"]),
        Route("/drop", decision(lambda asked: review.drop(asked.id, asked.version)), methods=["POST"]),
        Route("/undo", decision(lambda asked: review.undo(asked.version)), methods=["POST"]),
    ]
    app = Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers={DlmError: _refused})
    return _Guard(app, token)


class _Guard:
    """Refuses requests without the token or for another host, and adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        host = Headers(scope=scope).get("host", "").rpartition(":")
        first = scope["path"].split("/")[1] if "/" in scope["path"] else ""
        app = self._app
        if (host[0] or host[2]) not in HOSTS:
            app = PlainTextResponse("This page is only for this machine: open it as http://127.0.0.1.\n", 403)
        elif not secrets.compare_digest(first.encode(errors="replace"), self._token):
            app = PlainTextResponse("Open the address that `dlm-trl review` printed; each start has its own.\n", 403)
        await app(scope, receive, send_with_headers)


def _decided(review: Review, decision: Decision) -> dict[str, Any]:
    """What the page needs to know of a decision."""
    stage, reason = decision.stage, decision.reason
    lost = Rejected(decision.item, stage, reason) if stage is not None and reason is not None else None
    return {
        "was": decision.was,
        "pair": pair_fields(decision.item, decision.state, read_prose(review.document), lost),
        "message": decision.message,
        "isNew": decision.is_new,
        "undo": review.last.question if review.last else None,
    }


def _file(name: str, kind: str) -> Callable[[Request], Any]:
    content = files("dlm_trl.review").joinpath(name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


async def _refused(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 409)


def _json(value: Any, status: int = 200) -> Response:
    return Response(printable_json(value), status, media_type="application/json")
