"""Nothing that a teacher wrote can break a file: `make_safe` before a pair is staged, `synth_section` to write it.

    found = make_safe(QAPair(question, answer))
    if isinstance(found, Refusal): …                       # found.reason says why
    else: edit.append(path, synth_section(found, …))       # a section whose `pairs()` is exactly this pair

What the reader of documents would take for something else is changed where a human reader sees the same as before,
by the rules of Markdown. The last word has the reader itself: a pair that it does not read back exactly is refused.
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
_TRIAL = "---\ndlm_id: 0000000000000000000000000A\nbase_model: tiny\n---\n"


class Refusal(NamedTuple):
    """Why a pair cannot be written, in one line."""

    reason: str


def make_safe(pair: QAPair) -> QAPair | Refusal:
    """The pair as it can stand in a document, or why it cannot.

    Both texts are stripped and their lines end with LF. `### Q` and `### A` lines become `####` headings; lines that
    look like a section fence become inline code, unless they stand in a code block; code blocks are closed. Texts that
    are empty, or hold control characters or lone surrogates, are refused: such a reply is damaged.
    """
    for name, text in zip(QAPair._fields, pair, strict=True):
        if damage := next((c for c in "".join(text.splitlines()) if _is_damage(c)), None):
            return Refusal(f"The {name} holds the character U+{ord(damage):04X}, which is no text.")
    safe = QAPair(*map(_safe_text, pair))
    for name, text in zip(QAPair._fields, safe, strict=True):
        if not text:
            return Refusal(f"The {name} is empty.")
    return safe if _reads_back(safe) else Refusal("The pair cannot be written so that it reads back as it is.")


def synth_section(
    pair: QAPair,
    *,
    teacher: str,
    strategy: Strategy,
    synth_at: str,
    source_section_id: str,
    adapter: str | None = None,
) -> str:
    """The text of the section that holds a pair of make_safe, for `notes.edit.append`; it ends with a newline.

    synth_at is an ISO 8601 time in UTC, source_section_id the id of the prose, adapter the one that the prose is for.
    Raises DlmError (UsageError) for a teacher whose name a marker cannot hold.
    """
    if not teacher or any(c in teacher for c in '"\n\r'):
        raise UsageError(
            f"The teacher's name {teacher!r} cannot stand in a document.",
            hint="Use one without double quotes and line breaks.",
        )
    marker = (
        f'synth_teacher="{teacher}" synth_strategy="{strategy}" '
        f'synth_at="{synth_at}" source_section_id="{source_section_id}"'
    )
    question, answer = pair
    fence = f"::instruction#{adapter}::" if adapter else "::instruction::"
    return f"{fence}\n<!-- dlm-auto-synth: {marker} -->\n### Q\n{question}\n### A\n{answer}\n"


def _is_damage(character: str) -> bool:
    # "\frac" or "\beta" in a JSON string reads as a form feed or a backspace; what is no line end gives itself away.
    return unicodedata.category(character) in ("Cc", "Cs") and character != "\t"


def _safe_text(text: str) -> str:
    # Pairs are read with the line ends of str.splitlines, so no others may remain.
    lines = "\n".join(_closed("\n".join(text.splitlines()).strip().split("\n"))).strip().split("\n")
    blocks, delimiters = markdown_blocks(lines)
    safe = []
    for i, (line, opener) in enumerate(zip(lines, blocks, strict=True)):
        if i == opener:
            pass
        elif opener is not None and i in delimiters:
            # The reader must see both ends of a block or neither. Indentation means nothing to Markdown here.
            line = line.lstrip() if toggles(lines[opener]) else _indented(line)
        elif toggles(line):
            line = _BACKTICKS.sub("``", line) if opener is None else _indented(line)
        elif line.startswith("::") and line.endswith("::"):
            if opener is None:
                line = f"`{line}`"
            elif not toggles(lines[opener]):
                line = _indented(line)
        elif line.strip() in _HEADERS:
            line = line.replace("###", "####", 1)
        safe.append(line)
    return "\n".join(safe).strip()


def _indented(line: str) -> str:
    """The line so that the reader of documents takes it for content."""
    return f" {line}" if line.startswith(("```", "::")) else line


def _closed(lines: list[str]) -> list[str]:
    """The lines with an end for a code block that has none; Markdown has it run to the end of the text."""
    blocks, _ = markdown_blocks(lines)
    for i, (line, opener) in enumerate(zip(lines, blocks, strict=True)):
        backticks = _BACKTICKS.match(line)
        if opener is None and backticks and "`" not in line[backticks.end() :]:
            # A block that would be empty is a stray end.
            return [*lines, backticks[0]] if i + 1 < len(lines) else lines[:-1]
    return lines


def _reads_back(pair: QAPair) -> bool:
    section = synth_section(
        pair, teacher="t", strategy="extraction", synth_at="2000-01-01T00:00:00Z", source_section_id="0" * 16
    )
    try:
        sections = parse(_TRIAL + section).sections
        return [[(p.question, p.answer) for p in s.pairs()] for s in sections] == [[pair]]
    except DlmError:
        return False
