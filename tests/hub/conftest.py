"""A local server that answers like the Hub's API: who you are, repositories, LFS uploads and commits."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

LFS_ENDINGS = (".safetensors", ".parquet")  # as in a new repository's .gitattributes
TOKEN = "hf_baker_of_the_tests"


class Hub(ThreadingHTTPServer):
    """Knows the user `baker` with one token.

    files: what was committed, by "models/baker/notes/README.md". private: repositories with their visibility. large:
    the paths that came through LFS. requests: of all requests, "METHOD path".
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.large: list[str] = []
        self.requests: list[str] = []

    def handle_error(self, *arguments: object) -> None:
        self.requests.append(f"ERROR {sys.exc_info()[1]!r}")
        super().handle_error(*arguments)  # type: ignore[arg-type]

    def of(self, repo: str) -> dict[str, bytes]:
        """The files of a repository, such as "models/baker/notes", by path."""
        return {path.removeprefix(f"{repo}/"): data for path, data in self.files.items() if path.startswith(f"{repo}/")}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({}, 401)
        elif self.path == "/api/whoami-v2":
            self.answer({"name": "baker", "type": "user", "orgs": [{"name": "bakery"}]})
        elif (repo := self.path.removeprefix("/api/").partition("?")[0]) in self.server.private:
            files = [{"rfilename": path} for path in self.server.of(repo)]
            name = repo.partition("/")[2]
            self.answer({"id": name, "private": self.server.private[repo], "siblings": files, "tags": []})
        else:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
            self.server.private[repo] = asked["visibility"] == "private"
            self.answer({"url": f"{self.server.address}/{repo.removeprefix('models/')}"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": header_errors(json.loads(body)["content"]), "warnings": []})
        elif "/preupload/" in path:
            modes = [
                {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                for file in json.loads(body)["files"]
                for mode in ["lfs" if file["path"].endswith(LFS_ENDINGS) else "regular"]
            ]
            self.answer({"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            self.answer({"transfer": "basic", "objects": [self.action(one["oid"], one["size"]) for one in wanted]})
        elif "/commit/" in path:
            repo = path.removeprefix("/api/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                self.commit(repo, line["key"], line["value"])
            self.answer(
                {"success": True, "commitOid": "c0ffee", "commitUrl": f"{self.server.address}/{repo}/commit/c0ffee"}
            )
        else:
            self.answer({}, 404)

    def do_PUT(self) -> None:
        self.server.requests.append(f"PUT {self.path}")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def action(self, oid: str, size: int) -> dict[str, Any]:
        if oid in self.server.objects:  # of an earlier push
            return {"oid": oid, "size": size}
        return {"oid": oid, "size": size, "actions": {"upload": {"href": f"{self.server.address}/lfs/{oid}"}}}

    def commit(self, repo: str, key: str, value: dict[str, Any]) -> None:
        if key == "file":
            self.server.files[f"{repo}/{value['path']}"] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            self.server.files[f"{repo}/{value['path']}"] = self.server.objects[value["oid"]]
            self.server.large.append(value["path"])
        elif key == "deletedFile":
            del self.server.files[f"{repo}/{value['path']}"]

    def answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def header_errors(card: str) -> list[dict[str, str]]:
    """What the Hub refuses in a card's header: a value of the wrong kind, and a base that isn't a repository."""
    header = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else {}
    wrong = [key for key in ("license", "base_model", "library_name") if not isinstance(header.get(key, ""), str)]
    wrong += ["base_model"] if not re.fullmatch(r"([\w.-]+/)?[\w.-]+|", header.get("base_model", "")) else []
    return [{"message": f'"{key}" is invalid'} for key in wrong]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


Push = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def push(hub: Hub, tmp_path: Path) -> Push:
    """push(path, repo_id, *options): `dlm-trl push` in a process of its own, logged in to the local server.

    huggingface_hub reads its settings when it is imported.
    """

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hf_home"),
            "HF_TOKEN": TOKEN,
        }
        command = [sys.executable, "-m", "dlm_trl", "push", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})

    return run


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server, for huggingface_hub in this process."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", hub.address, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


class Done(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(online: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """cli("baker/notes", …): `dlm-trl push` in this process, for what sends nothing."""
    from dlm_trl.cli import main

    def run(*words: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["dlm-trl", "push", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return run
