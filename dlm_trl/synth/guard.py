"""Keep teachers' text from breaking a file: `make_safe` before a pair is staged, `synth_section` to write it.

    safe = make_safe(QAPair(question, answer))
    if isinstance(safe, Refusal): …                       # safe.reason says why
    else: edit.append(path, synth_section(safe, …))       # a section whose `pairs()` is exactly this pair

Lines that the document parser would misread are rewritten so that they look the same when rendered as Markdown. The
parser has the last word: a pair that doesn't read back exactly is refused.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from dlm_trl.notes import parse
from dlm_trl.notes.code_blocks import markdown_blocks, toggles
from dlm_trl.notes.errors import DlmError, UsageError
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.prompts import Strategy

_HEADERS = {"### Q", "### A", "### Q !probe"}
_BACKTICKS = re.compile(r"`{3,}")
TRIAL = "---\ndlm_id: 0000000000000000000000000A\nbase_model: tiny\n---\n"


class Refusal(NamedTuple):
    """Why a pair can't be written, in one line."""

    reason: str


def make_safe(pair: QAPair) -> QAPair | Refusal:
    """The pair as it can be written into a document, or why it can't.

    Both texts are stripped and get LF line ends. `### Q` and `### A` lines become `####` headings, lines that look like
    a section fence become inline code (unless they are in a code block), and open code blocks are closed. Texts that
    are empty or contain control characters or lone surrogates are refused, since the reply was damaged.
    """
    for name, text in zip(QAPair._fields, pair, strict=True):
        if damage := next((c for c in "".join(text.splitlines()) if _is_damage(c)), None):
            return Refusal(f"The {name} contains the control character or surrogate U+{ord(damage):04X}.")
    safe = QAPair(*map(_safe_text, pair))
    for name, text in zip(QAPair._fields, safe, strict=True):
        if not text:
            return Refusal(f"The {name} is empty.")
    return safe if _reads_back(safe) else Refusal("The document parser doesn't read the pair back as written.")


def synth_section(
    pair: QAPair,
    *,
    teacher: str,
    strategy: Strategy,
    synth_at: str,
    source_section_id: str,
    adapter: str | None = None,
) -> str:
    """The text of a section with this pair, for `notes.edit.append`; ends with a newline.

    pair: returned by `make_safe`. synth_at: ISO 8601, UTC. source_section_id: of the prose. adapter: of the prose.
    Raises DlmError (UsageError) for a teacher's name that a marker can't contain.
    """
    if not teacher or any(c in teacher for c in '"\n\r'):
        raise UsageError(
            f"The teacher's name {teacher!r} can't be written into a document.",
            hint="Use a name without double quotes or line breaks.",
        )
    marker = (
        f'synth_teacher="{teacher}" synth_strategy="{strategy}" '
        f'synth_at="{synth_at}" source_section_id="{source_section_id}"'
    )
    question, answer = pair
    fence = f"::instruction#{adapter}::" if adapter else "::instruction::"
    return f"{fence}\n<!-- dlm-auto-synth: {marker} -->\n### Q\n{question}\n### A\n{answer}\n"


def _is_damage(character: str) -> bool:
    # In a JSON string, "\frac" reads as a form feed and "\beta" as a backspace.
    return unicodedata.category(character) in ("Cc", "Cs") and character != "\t"


def _safe_text(text: str) -> str:
    # Pairs are parsed with str.splitlines, so normalise all of its line ends.
    lines = "\n".join(_closed("\n".join(text.splitlines()).strip().split("\n"))).strip().split("\n")
    blocks, delimiters = markdown_blocks(lines)
    safe = []
    for i, (line, opener) in enumerate(zip(lines, blocks, strict=True)):
        if i == opener:
            pass
        elif opener is not None and i in delimiters:
            # The parser must see both delimiters of a block or neither. Markdown ignores the indentation here.
            line = line.lstrip() if toggles(lines[opener]) else _as_content(line)
        elif toggles(line):
            line = _BACKTICKS.sub("``", line) if opener is None else _as_content(line)
        elif line.startswith("::") and line.endswith("::"):
            if opener is None:
                line = f"`{line}`"
            elif not toggles(lines[opener]):
                line = _as_content(line)
        elif line.strip() in _HEADERS:
            line = line.replace("###", "####", 1)
        safe.append(line)
    return "\n".join(safe).strip()


def _as_content(line: str) -> str:
    """The line, indented if the document parser would otherwise read it as a delimiter or a fence."""
    return f" {line}" if line.startswith(("```", "::")) else line


def _closed(lines: list[str]) -> list[str]:
    """The lines with any unclosed code block closed; in Markdown it runs to the end of the text."""
    blocks, _ = markdown_blocks(lines)
    for i, (line, opener) in enumerate(zip(lines, blocks, strict=True)):
        backticks = _BACKTICKS.match(line)
        if opener is None and backticks and "`" not in line[backticks.end() :]:
            # A delimiter on the last line opens nothing, so drop it.
            return [*lines, backticks[0]] if i + 1 < len(lines) else lines[:-1]
    return lines


def _reads_back(pair: QAPair) -> bool:
    section = synth_section(
        pair, teacher="t", strategy="extraction", synth_at="2000-01-01T00:00:00Z", source_section_id="0" * 16
    )
    try:
        sections = parse(TRIAL + section).sections
        return [[(p.question, p.answer) for p in s.pairs()] for s in sections] == [[pair]]
    except DlmError:
        return False
