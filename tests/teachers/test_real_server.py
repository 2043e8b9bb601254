"""`openai:` and `vllm-server:` with `transformers serve` and the tiny model: same texts as the model itself."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlm_trl import tiny
from dlm_trl.models.generate import generate
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.synth.prompts import pair_messages
from dlm_trl.teachers.openai import OpenAITeacher
from dlm_trl.teachers.protocol import Request, Teacher
from dlm_trl.teachers.vllm import VllmTeacher
from tests.teachers.servers import free_port, launched

MODEL = str(tiny.path())
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("hf")
    (home / "hub").mkdir()  # an empty list of models
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", MODEL, "--device", "cpu"]
    address = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    with launched([*command, *address], port, HF_HOME=str(home), HF_HUB_OFFLINE="1"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    lines = (tiny.path() / "held_out.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    prose = [json.loads(line)["prose"] for line in lines]
    return [Request(str(n), pair_messages(p, 1), NEW_TOKENS) for n, p in enumerate(prose)]


@pytest.fixture(scope="module")
def expected(requests: list[Request]) -> dict[str, tuple[str, int]]:
    """Text by the model itself, one request at a time, and tokens of the prompt."""
    model, tokenizer = load_base("tiny"), load_tokenizer("tiny")
    found = {}
    for request in requests:
        ids = tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False)
        (text,) = generate(model, tokenizer, [ids], NEW_TOKENS)
        assert "question" in text
        found[request.key] = (text, len(ids))
    return found


def seen(teacher: Teacher, requests: list[Request]) -> dict[str, tuple[str, int]]:
    replies = list(teacher.generate(requests))
    assert [r.error for r in replies] == [None] * len(requests)
    assert all(10 < r.usage.completion_tokens <= NEW_TOKENS for r in replies)
    return {r.key: (r.text, r.usage.prompt_tokens) for r in replies}


def test_openai(server: str, requests: list[Request], expected: dict[str, tuple[str, int]]) -> None:
    assert seen(OpenAITeacher(MODEL, base_url=f"{server}/v1", api_key="any"), requests) == expected


def test_vllm_server(server: str, requests: list[Request], expected: dict[str, tuple[str, int]]) -> None:
    teacher = VllmTeacher([server], MODEL)
    assert (teacher.revision, teacher.context) == (MODEL, None)
    assert seen(teacher, requests) == expected
