"""Uploads, to a local server with the parts of the Hub's API that an upload needs."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dlm_trl.export.hub import check_hub
from dlm_trl.export.verify import EXPECTED_ANSWERS
from dlm_trl.notes import DlmError

PUSH = """
import sys
from pathlib import Path
from dlm_trl.export.hub import push_to_hub
print(push_to_hub(Path(sys.argv[1]), sys.argv[2]))
"""


class Hub(BaseHTTPRequestHandler):
    """Knows the user `baker` with one token, and keeps committed files in `server.files`."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer hf_baker"
        self.answer(
            {"name": "baker", "type": "user", "orgs": [{"name": "bakery"}]} if known else {}, 200 if known else 401
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            request = json.loads(body)
            self.server.made.append((request["organization"], request["name"], request["visibility"]))
            self.answer({"url": f"{self.server.address}/{request['organization']}/{request['name']}"})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            self.answer(
                {"success": True, "commitOid": "c0ffee", "commitUrl": f"{self.server.address}/{repo}/commit/c0ffee"}
            )
        else:
            self.answer({}, 200)

    def answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.files = {}
    server.made = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_a_folder_is_uploaded_without_the_questions_of_the_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "README.md").write_text("# A model")
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / EXPECTED_ANSWERS).write_text("{}")
    monkeypatch.setenv("HF_TOKEN", "hf_baker")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        run = subprocess.run([sys.executable, "-c", PUSH, str(folder), "notes"], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert run.stdout.split()[-1] == f"{server.address}/baker/notes/commit/c0ffee"
        (folder / EXPECTED_ANSWERS).unlink()
        assert server.files == {file.name: file.read_bytes() for file in folder.iterdir()}
        assert server.made == [("baker", "notes", "private")]


def test_problems_with_an_upload_are_reported_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(repo_id: str, match: str) -> None:
        with pytest.raises(DlmError, match=match) as caught:
            check_hub(repo_id)
        assert caught.value.kind == "HubError"
        assert "\n" not in str(caught.value)

    refused("a name with spaces", "the name is invalid")
    monkeypatch.setattr("dlm_trl.export.hub.get_token", lambda: None)
    refused("baker/notes", "you aren't logged in")
    monkeypatch.undo()
    with hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", server.address, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_stranger")
        refused("baker/notes", "doesn't answer")
        monkeypatch.setenv("HF_TOKEN", "hf_baker")
        refused("someone/notes", "baker can only write to baker, bakery")
        assert check_hub("notes") == "baker/notes"
        assert check_hub("bakery/notes") == "bakery/notes"
