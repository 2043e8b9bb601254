"""What a teacher is asked: question/answer pairs about one window of prose, as a JSON list.

`pair_messages` gives the chat messages. The wording is part of every request's key: when it changes, raise
`PROMPT_VERSION`. The embedded base (`dlm_trl.tiny`) was trained on these very words, among others.
"""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb
from typing import Literal

from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError

from dlm_trl.notes import DlmError

PROMPT_VERSION = 1

Strategy = Literal["extraction", "expansion"]

# No loop and no condition: a template of one's own sees the same two variables, `n` and `prose`.
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

_environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


def pair_messages(
    prose: str, n: int, strategy: Strategy = "extraction", template: str | None = None
) -> list[dict[str, str]]:
    """The chat that asks for `n` pairs about `prose`: one user message. The reply is the assistant's turn.

    template, a Jinja text with the variables `n`, `prose` and `strategy`, stands in place of the strategy's own.
    """
    source = TEMPLATES[strategy] if template is None else template
    content = _environment.from_string(source).render(n=n, prose=prose.strip(), strategy=strategy)
    return [{"role": "user", "content": content}]


def check_template(template: str, path: Path) -> None:
    """Raises DlmError (PromptError) where a prompt of one's own does not render, or leaves the prose out."""
    hint = "It is a Jinja template with the variables n, prose and strategy."
    mark = "8f1c the prose 5d20"
    try:
        contents = [pair_messages(mark, 3, strategy, template)[0]["content"] for strategy in TEMPLATES]
    except TemplateSyntaxError as error:
        raise DlmError(
            kind="PromptError", message=f"{error.message}.", path=path, line=error.lineno, hint=hint
        ) from None
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == "<template>"]
        raise DlmError(
            kind="PromptError",
            message=f"The prompt does not render: {error}.",
            path=path,
            line=next(iter(lines), None),
            hint=hint,
        ) from None
    if any(mark not in content for content in contents):
        raise DlmError(kind="PromptError", message="The prompt leaves the prose out.", path=path, hint=hint)
