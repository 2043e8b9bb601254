"""The fast parser of pairs and triples agrees with a line-by-line one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes import DlmError
from dlm_trl.notes.blocks import read_pairs, read_triples

LINES = st.sampled_from(
    [
        *("### Q", "### A", "### Q", "### A", " ### Q\t", "### Q !probe", "### A !probe", "###Q", "#### Q", "### Qx"),
        *(
            "### Prompt",
            "### Chosen",
            "### Rejected",
            "### Prompt",
            "### Chosen",
            "### Rejected",
            "\u00a0### Chosen\x1f",
        ),
        *(
            "What is dew?",
            "Water.",
            " indented ",
            "",
            "  ",
            "# heading",
            "### Notes",
            "```",
            "part\u2028### Q",
            "a\x0bb",
        ),
        *("\x0c### A", "文字", "x\x85"),
    ]
)
SHORT = st.tuples(st.sampled_from(["What?", "Is it so? "]), st.sampled_from(["Yes.", "文字 "]))
CONTENTS = st.lists(LINES, max_size=14).map("\n".join) | st.lists(SHORT, min_size=1, max_size=4).flatmap(
    lambda pairs: st.sampled_from(["", "\n", "\n\n"]).map(
        lambda between: between.join(f"### Q\n{q}\n### A\n{a}\n" for q, a in pairs)
    )
)


def plain_reading(content: str, order: list[str]) -> tuple[list[tuple[str, int]], int | None]:
    """(body, section line of its header) for each block, and the section line of the first mistake."""
    blocks: list[tuple[str, list[str], int]] = []
    lines = content.splitlines()
    for number, line in enumerate(lines, 1):
        header = line.strip()
        if header == "### Q !probe" and "Q" in order:
            header = "### Q"
        if header.startswith("### ") and header[4:] in order:
            blocks.append((header[4:], [], number))
        elif blocks:
            blocks[-1][1].append(line)
        elif header:
            return [], number
    found: list[tuple[str, int]] = []
    for i, (label, body, number) in enumerate(blocks):
        text = "\n".join(body).strip()
        if label != order[i % len(order)]:
            return found, number
        if not text:
            return found, blocks[i + 1][2] if i + 1 < len(blocks) else len(lines) + 1
        found.append((text, number))
    if not found:
        return found, 1
    return found, len(lines) + 1 if len(found) % len(order) else None


@given(CONTENTS, st.integers(1, 1000))
def test_pairs_match_a_line_by_line_parser(content: str, content_line: int) -> None:
    blocks, mistake = plain_reading(content, ["Q", "A"])
    if mistake is not None:
        with pytest.raises(DlmError) as caught:
            read_pairs(content, content_line)
        assert (caught.value.kind, caught.value.section_line) == ("InstructionParseError", mistake)
        assert caught.value.line == content_line - 1 + mistake
    else:
        flat = [part for body, line in blocks for part in (body, content_line - 1 + line)]
        pairs = read_pairs(content, content_line)
        assert [part for p in pairs for part in (p.question, p.line, p.answer, p.answer_line)] == flat


@given(CONTENTS, st.integers(1, 1000))
def test_triples_match_a_line_by_line_parser(content: str, content_line: int) -> None:
    blocks, mistake = plain_reading(content, ["Prompt", "Chosen", "Rejected"])
    if mistake is not None:
        with pytest.raises(DlmError) as caught:
            read_triples(content, content_line)
        assert (caught.value.kind, caught.value.section_line) == ("PreferenceParseError", mistake)
    else:
        triples = read_triples(content, content_line)
        assert [part for t in triples for part in (t.prompt, t.chosen, t.rejected)] == [body for body, _ in blocks]
        assert [t.line for t in triples] == [content_line - 1 + line for _, line in blocks[::3]]


def test_equal_sides_are_not_an_error_for_the_parser() -> None:
    (triple,) = read_triples("### Prompt\np\n### Chosen\nsame\n### Rejected\nsame", 7)
    assert triple == ("p", "same", "same", 7)
