"""A server's answers are compared, and a server that hangs or replies nonsense is reported in one line."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dlm_trl.export import serve_check as module
from dlm_trl.export.serve_check import serve_check
from dlm_trl.export.verify import EXPECTED_ANSWERS
from dlm_trl.notes import DlmError

pytest.importorskip("openai")

MODELS = '{"object": "list", "data": [{"id": "m", "object": "model"}]}'
ROWS = [{"chat": [{"role": "user", "content": "Why steam?"}], "text": "For the crust.", "ended": True}]


class Handler(BaseHTTPRequestHandler):
    """Replies with `server.answer`."""

    def do_GET(self) -> None:
        self._say(self.server.models)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._say(self.server.answer)

    def _say(self, text: str) -> None:
        self.server.released.wait(0 if text else 5)  # without an answer: hang
        self.send_response(200 if text[:1] in '[{"<' else 404)
        self.send_header("content-type", "text/html" if text.startswith("<") else "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.models, server.released = MODELS, threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / EXPECTED_ANSWERS).write_text(json.dumps({"new_tokens": 8, "answers": ROWS}))
    return tmp_path


def url(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def reply(content: object, reason: str = "stop") -> str:
    return json.dumps({"choices": [{"index": 0, "message": {"content": content}, "finish_reason": reason}]})


def test_answers_and_stop_reasons_are_compared(server: HTTPServer, folder: Path) -> None:
    server.answer = reply("For the crust.")
    assert serve_check(url(server), folder).passed
    server.answer = reply("For the crust.", "length")
    assert [check.passed for check in serve_check(url(server), folder).checks] == [True, False]
    server.answer = reply("No idea.")
    assert serve_check(url(server), folder).differing == [("Why steam?", "For the crust.", "No idea.")]


@pytest.mark.parametrize(
    "nonsense",
    ["<html>", '"x"', "[]", "{", '{"choices": []}', '{"choices": null}', '{"choices": ["x"]}', reply(["x"]), "404"],
)
def test_invalid_replies_are_reported(server: HTTPServer, folder: Path, nonsense: str) -> None:
    server.answer = nonsense
    with pytest.raises(DlmError, match=r"(reply isn't|refuses).*/v1") as caught:
        serve_check(url(server), folder)
    assert caught.value.kind == "ServerError" and "\n" not in str(caught.value)
    if nonsense in ("<html>", '"x"', "[]", "{", "404"):
        server.models = nonsense
        with pytest.raises(DlmError, match=r"reply isn't|refuses"):
            serve_check(url(server), folder)


def test_a_server_that_hangs_times_out(server: HTTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = ""
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    with pytest.raises(DlmError, match=r"No answer within 0\.2 seconds"):
        serve_check(url(server), folder)


@pytest.mark.parametrize("address", ["", "localhost:8000/v1", "ftp://x/v1", "/tmp", "http://[::/v1", "http://a:99999"])
def test_an_invalid_url_is_a_usage_error(folder: Path, address: str) -> None:
    with pytest.raises(DlmError, match="isn't the URL of a server") as caught:
        serve_check(address, folder)
    assert caught.value.kind == "UsageError"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"new_tokens": 8, "answers": []}', '{"answers": [5]}', '"x"'])
def test_a_damaged_file_of_answers_is_reported(folder: Path, text: str) -> None:
    (folder / EXPECTED_ANSWERS).write_text(text)
    with pytest.raises(DlmError, match=r"damaged.*Verify the model again") as caught:
        serve_check("http://127.0.0.1:9/v1", folder)
    assert caught.value.kind == "VerifyError"
