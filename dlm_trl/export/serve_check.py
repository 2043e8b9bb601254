"""Does a running server say what the verified model said? `serve_check("http://localhost:8000/v1", Path("runs/awq"))`.

verify wrote down what was asked and answered; here the same goes through the server: its chat template, its stop
tokens, its kernels.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rapidfuzz import fuzz

from dlm_trl.export.checks import Check, check
from dlm_trl.export.limits import SERVED_ANSWERS, SERVED_STOPS
from dlm_trl.export.verify import EXPECTED_ANSWERS
from dlm_trl.notes.errors import MissingExtraError, ServerError, UsageError, VerifyError

if TYPE_CHECKING:
    from openai import OpenAI

TIMEOUT = 120  # seconds for an answer of some 64 tokens, also by a CPU
FUZZY_RATIO = 90.0  # of 100: other kernels round differently, which may turn a word


@dataclass(frozen=True)
class Served:
    """What came back. differing: question, expected and served answer, where they are not near to each other."""

    model: str
    checks: list[Check]
    differing: list[tuple[str, str, str]]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def serve_check(url: str, folder: Path, model: str | None = None) -> Served:
    """Send the chats of verify to the server, at temperature 0, and compare answers and stop reasons.

    url is the address of an OpenAI-compatible API, with its /v1; model the name that it serves, the first of its list
    unless given. Raises DlmError: ServerError where it cannot be asked or answers nonsense, UsageError for what is no
    address, VerifyError for a folder that was not verified, MissingExtraError.
    """
    said = _expected(folder)
    _check_url(url)
    with _client(url) as client:
        name = model or _first(client, url)
        replies = [_ask(client, name, row["chat"], said["new_tokens"]) for row in said["answers"]]
    near, stops, differing = 0, 0, []
    for row, (text, reason) in zip(said["answers"], replies, strict=True):
        if fuzz.ratio(text, row["text"]) >= FUZZY_RATIO:
            near += 1
        else:
            question = row["chat"] if isinstance(row["chat"], str) else row["chat"][-1]["content"]
            differing.append((question, row["text"], text))
        stops += (reason == "stop") == row["ended"]
    count = len(replies)
    return Served(name, [check(SERVED_ANSWERS, near / count), check(SERVED_STOPS, stops / count)], differing)


def _expected(folder: Path) -> dict:
    file = folder / EXPECTED_ANSWERS
    if not file.is_file():
        raise VerifyError(
            f"There is no {EXPECTED_ANSWERS}, so it is not known what this model should say.",
            hint="Verify it first: dlm-trl verify BEFORE_DIR AFTER_DIR.",
            path=folder,
        )
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        rows = [(row["chat"], row["text"].strip(), row["ended"]) for row in said["answers"]]
        if not rows or said["new_tokens"] < 1:
            raise ValueError("it asks nothing")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise VerifyError(
            f"This is not what verify writes: {error}.",
            hint="Verify again: dlm-trl verify BEFORE_DIR AFTER_DIR.",
            path=file,
        ) from error
    return said


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        right = False
    if not right:
        raise UsageError(
            f"{url!r} is no address of a server.",
            hint="Write it like http://localhost:8000/v1.",
        )


@contextmanager
def _client(url: str) -> Iterator["OpenAI"]:
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            "Asking a server needs the openai package.",
            hint="Install it: pip install -c constraints.txt 'dlm-trl[openai]'.",
        ) from error
    try:
        key = os.environ.get("OPENAI_API_KEY") or "none"
        with openai.OpenAI(base_url=url, api_key=key, timeout=TIMEOUT, max_retries=0) as client:
            yield client
    except openai.APITimeoutError as error:
        raise _server(url, f"It has not answered for {TIMEOUT} seconds.", "Is it still loading, or busy?") from error
    except openai.APIConnectionError as error:
        reason = f"It does not answer: {_line(error.__cause__ or error)}."
        raise _server(url, reason, "Is it running, and is this its address, with /v1?") from error
    except openai.APIStatusError as error:
        reason = f"It refuses: {_line(error)}."
        raise _server(url, reason, "Check --model, and the address, which ends with /v1.") from error
    except (openai.OpenAIError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"It answers otherwise than an OpenAI-compatible server: {_line(error)}."
        raise _server(url, reason, "Check the address, which ends with /v1.") from error


def _first(client: "OpenAI", url: str) -> str:
    listed = [model.id for model in client.models.list()]
    if not listed:
        raise _server(url, "It lists no model.", "Name the model with --model.")
    return listed[0]


def _ask(client: "OpenAI", model: str, chat: list[dict[str, str]] | str, new_tokens: int) -> tuple[str, str]:
    if isinstance(chat, str):
        choice = client.completions.create(model=model, prompt=chat, max_tokens=new_tokens, temperature=0).choices[0]
        return choice.text.strip(), choice.finish_reason
    choice = client.chat.completions.create(model=model, messages=chat, max_tokens=new_tokens, temperature=0).choices[0]
    return (choice.message.content or "").strip(), choice.finish_reason


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _server(url: str, message: str, hint: str) -> ServerError:
    return ServerError(f"{url}: {message}", hint=hint)
