"""docs/troubleshooting.md quotes messages that the package has: each quotation in the first column of its tables is in
a string of the source, with … for what differs from case to case.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
SOURCES = [*(ROOT / "dlm_trl").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]


def strings(tree: ast.AST) -> Iterator[str]:
    """The strings and f-strings of a module, with … for values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sdg]", "…", node.value)


def quotes() -> list[str]:
    cells = re.findall(r"^\| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [quote.rstrip(" …") for cell in cells for quote in re.findall(r'"([^"]+)"', cell)]


@pytest.fixture(scope="module")
def source() -> str:
    return "\n".join(" ".join(text.split()) for file in SOURCES for text in strings(ast.parse(file.read_bytes())))


def test_every_quoted_message_is_in_the_source(source: str) -> None:
    assert not [quote for quote in quotes() if quote not in source]


def test_most_rows_quote_a_message() -> None:
    rows = re.findall(r"^\| (?!---)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quotes()) > 0.7 * len(rows) > 50
