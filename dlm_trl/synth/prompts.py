"""What a teacher is asked: question/answer pairs about one window of prose, as a JSON list.

`pair_messages` gives the chat messages. The wording is part of every request's key: when it changes, raise
`PROMPT_VERSION`. The embedded base (`dlm_trl.tiny`) was trained on these very words, among others.
"""

from __future__ import annotations

from typing import Literal

from jinja2 import Environment, StrictUndefined

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

_environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


def pair_messages(prose: str, n: int, strategy: Strategy = "extraction") -> list[dict[str, str]]:
    """The chat that asks for `n` pairs about `prose`: one user message. The reply is the assistant's turn."""
    content = _environment.from_string(TEMPLATES[strategy]).render(n=n, prose=prose.strip())
    return [{"role": "user", "content": content}]
