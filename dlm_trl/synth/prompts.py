"""The prompts that ask a teacher for question/answer pairs about a window of prose, as a JSON list.

The wording is part of every request's key in the ledger: raise `PROMPT_VERSION` when you change it. The embedded base
(`dlm_trl.tiny`) was trained on this exact wording, among others.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import Literal, NamedTuple

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dlm_trl.asking.language import foreign_language
from dlm_trl.notes.errors import PromptError

PROMPT_VERSION = 1

Strategy = Literal["extraction", "expansion"]

# Plain substitution; a user's own prompt also gets `strategy`.
TEMPLATES: dict[Strategy, str] = {
    "extraction": """\
Write {{ n }} question and answer pairs{{ language }} about the text below. Each question names what it asks about. \
Each answer is short and says only what the text says. \
Reply with a JSON list of objects with the keys "question" and "answer".

Text:
{{ prose }}{{ reminder }}""",
    "expansion": """\
Write {{ n }} question and answer pairs{{ language }} that go beyond the text below. \
Each question names what it asks about. \
Each answer is short and true. \
Reply with a JSON list of objects with the keys "question" and "answer".

Text:
{{ prose }}{{ reminder }}""",
}

# At the end of a request about prose that isn't English, since a small model forgets what it read before the text.
_REMINDER = "\n\nWrite the questions and answers in {language}."

# The retry after an unreadable reply.
CORRECTION = (
    "Your reply could not be read: {problem} "
    'Reply with the JSON list only, objects with the keys "question" and "answer".'
)

# Sandboxed, because a prompt file may come from someone else.
_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
_compiled = lru_cache(_environment.from_string)  # planning renders a prompt several times per window


class Prompt(NamedTuple):
    """A user's prompt: a Jinja template with the variables `n`, `prose` and `strategy`, and its file."""

    template: str
    path: Path


def pair_messages(
    prose: str, n: int, strategy: Strategy = "extraction", prompt: Prompt | None = None
) -> list[dict[str, str]]:
    """The chat messages that ask for `n` pairs about `prose`: a single user message.

    They name the language if that isn't English. prompt replaces the strategy's template. Raises DlmError
    (PromptError) if it doesn't render.
    """
    template = TEMPLATES[strategy] if prompt is None else prompt.template
    try:
        language = foreign_language(prose)
        content = _compiled(template).render(
            n=n,
            prose=prose.strip(),
            strategy=strategy,
            language=f" in {language}" if language else "",
            reminder=_REMINDER.format(language=language) if language else "",
        )
    except TemplateSyntaxError as error:
        raise _prompt_error(error.message or "", prompt, error.lineno) from None
    except Exception as error:  # a template can raise anything
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == "<template>"]
        raise _prompt_error(f"The prompt doesn't render: {error}", prompt, next(iter(lines), None)) from None
    return [{"role": "user", "content": content}]


def own_prompt(path: str | os.PathLike[str] | None) -> Prompt | None:
    """`read_prompt` for the setting `prompt`; None if it isn't set."""
    return None if path is None else read_prompt(Path(path))


def read_prompt(path: Path) -> Prompt:
    """Read a prompt file. Raises DlmError (PromptError) if it doesn't render, or doesn't include the prose."""
    try:
        prompt = Prompt(path.read_text(encoding="utf-8-sig"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"The prompt can't be read: {error}.", path=path) from None
    marker = "8f1c the prose 5d20"
    contents = [pair_messages(marker, 3, strategy, prompt)[0]["content"] for strategy in TEMPLATES]
    if any(marker not in content for content in contents):
        raise _prompt_error("The prompt doesn't include the prose", prompt)
    return prompt


def _prompt_error(problem: str, prompt: Prompt | None, line: int | None = None) -> PromptError:
    return PromptError(
        f"{problem.rstrip('.')}.",
        path=prompt and prompt.path,
        line=line,
        hint="It must be a Jinja template with {{ prose }}, and optionally {{ n }} and {{ strategy }}.",
    )
