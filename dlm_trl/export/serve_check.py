"""Check a running server: `serve_check("http://localhost:8000/v1", Path("runs/awq"))`.

`verify` saved questions with the model's answers. This sends the same questions through the server, and so tests its
chat template, stop tokens and kernels.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from rapidfuzz import fuzz

from dlm_trl.export.checks import Check, check
from dlm_trl.export.limits import SERVED_ANSWERS, SERVED_STOPS
from dlm_trl.export.verify import EXPECTED_ANSWERS
from dlm_trl.notes.errors import ServerError, UsageError, VerifyError
from dlm_trl.notes.escape import mask_keys
from dlm_trl.notes.extras import require_extra

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

TIMEOUT = 120  # seconds for an answer of about 64 tokens, enough for a CPU
FUZZY_RATIO = 90.0  # of 100; other kernels round differently, which can change a word


@dataclass(frozen=True)
class ServeCheck:
    """The result. differing: (question, expected answer, served answer) for answers that aren't similar."""

    model: str
    checks: list[Check]
    differing: list[tuple[str, str, str]]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        return not self.failed


def serve_check(url: str, folder: Path, model: str | None = None) -> ServeCheck:
    """Send the questions of `verify` to the server at temperature 0, and compare answers and stop reasons.

    url: an OpenAI-compatible API, including /v1. model: its name on the server, by default the first one listed.
    Raises DlmError: ServerError if the server can't be reached or gives invalid replies, UsageError for an invalid
    URL, VerifyError for a folder that wasn't verified, MissingExtraError.
    """
    expected = _expected_answers(folder)
    _check_url(url)
    with _client(url) as client:
        name = model or _first_model(client, url)
        replies = [_ask(client, name, row["chat"], expected["new_tokens"]) for row in expected["answers"]]
    similar, same_stops, differing = 0, 0, []
    for row, (text, reason) in zip(expected["answers"], replies, strict=True):
        if fuzz.ratio(text, row["text"]) >= FUZZY_RATIO:
            similar += 1
        else:
            question = row["chat"] if isinstance(row["chat"], str) else row["chat"][-1]["content"]
            differing.append((question, row["text"], text))
        same_stops += (reason == "stop") == row["ended"]
    count = len(replies)
    checks = [check(SERVED_ANSWERS, similar / count), check(SERVED_STOPS, same_stops / count)]
    return ServeCheck(name, checks, differing)


def _expected_answers(folder: Path) -> dict[str, Any]:
    file = folder / EXPECTED_ANSWERS
    if not file.is_file():
        raise VerifyError(
            f"{EXPECTED_ANSWERS} is missing, so the model's answers aren't known.",
            hint="Verify the model first: dlm-trl verify BEFORE_DIR AFTER_DIR.",
            path=folder,
        )
    try:
        expected = json.loads(file.read_text(encoding="utf-8"))
        rows = [(row["chat"], row["text"].strip(), row["ended"]) for row in expected["answers"]]
        if not rows or expected["new_tokens"] < 1:
            raise ValueError("it has no questions")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise VerifyError(
            f"The file is damaged: {error}.",
            hint="Verify the model again: dlm-trl verify BEFORE_DIR AFTER_DIR.",
            path=file,
        ) from error
    return cast(dict[str, Any], expected)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        valid = False
    if not valid:
        raise UsageError(f"{url!r} isn't the URL of a server.", hint="Use the form http://localhost:8000/v1.")


@contextmanager
def _client(url: str) -> Iterator["OpenAI"]:
    require_extra("openai", "Asking a server")
    import openai

    try:
        key = os.environ.get("OPENAI_API_KEY") or "none"
        with openai.OpenAI(base_url=url, api_key=key, timeout=TIMEOUT, max_retries=0) as client:
            yield client
    except openai.APITimeoutError as error:
        raise _error(url, f"No answer within {TIMEOUT} seconds.", "Is the server still loading, or busy?") from error
    except openai.APIConnectionError as error:
        reason = f"The server doesn't answer: {_one_line(error.__cause__ or error)}."
        raise _error(url, reason, "Is it running, and is this its URL, including /v1?") from error
    except openai.APIStatusError as error:
        reason = f"The server refuses: {_one_line(error)}."
        raise _error(url, reason, "Check --model, and that the URL ends with /v1.") from error
    except (openai.OpenAIError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"The reply isn't that of an OpenAI-compatible server: {_one_line(error)}."
        raise _error(url, reason, "Check that the URL ends with /v1.") from error


def _first_model(client: "OpenAI", url: str) -> str:
    listed = [model.id for model in client.models.list()]
    if not listed:
        raise _error(url, "The server lists no models.", "Give the name of the model with --model.")
    return listed[0]


def _ask(client: "OpenAI", model: str, chat: list[dict[str, str]] | str, new_tokens: int) -> tuple[str, str]:
    if isinstance(chat, str):
        completion = client.completions.create(model=model, prompt=chat, max_tokens=new_tokens, temperature=0)
        return mask_keys(completion.choices[0].text).strip(), completion.choices[0].finish_reason
    messages = cast("list[ChatCompletionMessageParam]", chat)
    reply = client.chat.completions.create(model=model, messages=messages, max_tokens=new_tokens, temperature=0)
    return mask_keys(reply.choices[0].message.content or "").strip(), reply.choices[0].finish_reason


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _error(url: str, message: str, hint: str) -> ServerError:
    return ServerError(f"{url}: {message}", hint=hint)
