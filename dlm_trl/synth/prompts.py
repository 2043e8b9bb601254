"""What a teacher is asked: question/answer pairs about one window of prose, as a JSON list.

`pair_messages` gives the chat messages. The wording is part of every request's key: when it changes, raise
`PROMPT_VERSION`. The embedded base (`dlm_trl.tiny`) was trained on these very words, among others.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import Literal, NamedTuple

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dlm_trl.notes.errors import PromptError

PROMPT_VERSION = 1

Strategy = Literal["extraction", "expansion"]

# No loop and no condition; a prompt of one's own sees the variable `strategy` too.
TEMPLATES: dict[Strategy, str] = {
    "extraction": """\
Write {{ n }} question and answer pairs about the text below. Each question names what it asks about. \
Each answer is short and says only what the text says. \
Reply with a JSON list of objects with the keys "question" and "answer".

Text:
{{ prose }}""",
    "expansion": """\
Write {{ n }} question and answer pairs that go beyond the text below. Each question names what it asks about. \
Each answer is short and true. \
Reply with a JSON list of objects with the keys "question" and "answer".

Text:
{{ prose }}""",
}

# What follows a reply that could not be read; asked once.
CORRECTION = (
    "Your reply could not be read: {problem} "
    'Reply with the JSON list only, objects with the keys "question" and "answer".'
)

# A prompt may come from somebody else: it can read its three variables and nothing of the machine.
_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
_compiled = lru_cache(_environment.from_string)  # a plan renders a prompt several times for each window


class Prompt(NamedTuple):
    """A prompt of one's own: a Jinja text with the variables `n`, `prose` and `strategy`, and its file."""

    template: str
    path: Path


def pair_messages(
    prose: str, n: int, strategy: Strategy = "extraction", prompt: Prompt | None = None
) -> list[dict[str, str]]:
    """The chat that asks for `n` pairs about `prose`: one user message. The reply is the assistant's turn.

    prompt stands in place of the strategy's own. Raises DlmError (PromptError) where it does not render.
    """
    template = TEMPLATES[strategy] if prompt is None else prompt.template
    try:
        content = _compiled(template).render(n=n, prose=prose.strip(), strategy=strategy)
    except TemplateSyntaxError as error:
        raise _broken(error.message or "", prompt, error.lineno) from None
    except Exception as error:  # a template is a program, and may end in any of them
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == "<template>"]
        raise _broken(f"The prompt does not render: {error}", prompt, next(iter(lines), None)) from None
    return [{"role": "user", "content": content}]


def read_prompt(path: Path) -> Prompt:
    """The prompt in this file. Raises DlmError (PromptError) where it does not render, or leaves the prose out."""
    try:
        prompt = Prompt(path.read_text(encoding="utf-8-sig"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"The prompt cannot be read: {error}.", path=path) from None
    mark = "8f1c the prose 5d20"
    contents = [pair_messages(mark, 3, strategy, prompt)[0]["content"] for strategy in TEMPLATES]
    if any(mark not in content for content in contents):
        raise _broken("The prompt leaves the prose out", prompt)
    return prompt


def _broken(what: str, prompt: Prompt | None, line: int | None = None) -> PromptError:
    return PromptError(
        f"{what.rstrip('.')}.",
        path=prompt and prompt.path,
        line=line,
        hint="It is a Jinja template with the variables n, prose and strategy.",
    )
