"""A real vLLM on the CPU, which is only ever a program here: it lives in an environment of its own (`make test-vllm`).

DLM_TEST_VLLM is the path of its executable; without it these tests are skipped. They start small servers of SmolLM2,
one thread and 1 GB of cache each, about 4 GB of memory together with their processes.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from subprocess import Popen

import pytest

from tests.teachers.servers import free_port, launched

BASE = "smollm2-135m"
NOTES = Path(__file__).parents[2] / "recipes" / "notes.dlm"
QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
# One server takes every core and most of the memory, unless it is told not to.
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}

Serve = Callable[[str], AbstractContextManager[tuple[str, "Popen[bytes]"]]]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """serve("vllm serve …") runs this line of a shell, on a free port; the server's address and its process."""
    vllm = os.environ.get("DLM_TEST_VLLM")
    if vllm is None:
        pytest.skip("needs a real vLLM: make test-vllm installs one and says where it is (DLM_TEST_VLLM)")
    path = f"{Path(vllm).parent}{os.pathsep}{os.environ['PATH']}"

    @contextmanager
    def served(line: str) -> Iterator[tuple[str, "Popen[bytes]"]]:
        port = free_port()
        command = ["sh", "-c", f"exec {line} --port {port}"]
        with launched(command, port, PATH=path, **QUIET, **SMALL) as server:
            yield f"http://127.0.0.1:{port}", server

    return served


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of the session's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("DLM_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """notes(4): a new document, the first four sections of prose of the demo's notes with their questions, for BASE."""
    numbers = count()

    def write(sections: int) -> Path:
        text = NOTES.read_text(encoding="utf-8")
        text = re.sub(r"^(dlm_id: .*).$", rf"\g<1>{next(numbers)}", text, count=1, flags=re.M)
        text = re.sub(r"^base_model: .*$", f"base_model: {BASE}", text, count=1, flags=re.M)
        path = tmp_path_factory.mktemp("notes") / "notes.dlm"
        path.write_text("\n::prose::\n".join(text.split("\n::prose::\n")[:sections]), encoding="utf-8")
        return path

    return write
