"""A server that writes pairs about any prose, always the same ones; and documents for it.

    with asked(App(reply=write), monkeypatch): …       # `openai:m` is answered by it

What a pair says follows from the prose's first word, so a test can tell what was asked from what came back.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.teachers.servers import App, Call, serve

HEAD = "---\ndlm_id: 01JTRX0000000000000000000A\ndlm_version: 15\nbase_model: tiny\n---\n"
TOPICS = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Hazel", "Ivy", "Juniper", "Kapok", "Larch")
NOUNS = {"about": ("colour", "height", "origin", "price"), "that go beyond": ("cousin", "legend", "pest", "future")}
_ASKED = re.compile(r"Write (\d+) question and answer pairs (about|that go beyond) the text.*\nText:\n(.*)", re.DOTALL)


def prose(topic: str) -> str:
    return f"{topic} is a plant that grows beside the road."


def notes(path: Path, *topics: str, more: str = "") -> Path:
    """A document with a section of prose for each topic."""
    path.write_text(HEAD + "\n::prose::\n".join(f"{prose(topic)}\n" for topic in topics) + more, encoding="utf-8")
    return path


def pair(topic: str, noun: str) -> tuple[str, str]:
    return f"What is the {noun} of {topic}?", f"The {noun} of {topic} is the first of the {noun}s."


def written(topic: str, n: int, way: str = "about") -> list[tuple[str, str]]:
    """The pairs written by the server."""
    return [pair(topic, noun) for noun in NOUNS[way][:n]]


def listed(pairs: list[tuple[str, str]]) -> str:
    """Pairs as a teacher writes them."""
    return json.dumps([{"question": question, "answer": answer} for question, answer in pairs])


def question(call: Call) -> tuple[int, str, str]:
    """The number of pairs, the strategy and the prose of a request."""
    asked = _ASKED.fullmatch(call.body["messages"][0]["content"])
    assert asked, call.body
    return int(asked[1]), asked[2], asked[3]


def topic_of(call: Call) -> str:
    return question(call)[2].split()[0]


async def write(call: Call) -> str:
    n, way, _ = question(call)
    return listed(written(topic_of(call), n, way))


@contextmanager
def asked(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """Serve `openai:m` from this application, for this process and its subprocesses."""
    with serve(app) as url:
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        yield app
