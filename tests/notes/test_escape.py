"""Text from elsewhere: no control characters in a terminal, nothing that Markdown interprets, no keys or passwords."""

import json
import logging
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table

from dlm_trl.notes import DlmError
from dlm_trl.notes.escape import code, markdown, mask_keys, printable, printable_json, redact
from dlm_trl.notes.terminal import console, logging_to_stderr, say

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HOSTILE = st.lists(
    st.sampled_from(
        [
            *("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\b", "\x7f", "\n", "    ", ":", "\\", *BIDI),
            *("[red]", "[/]", "[link=http://x.io]a[/link]", "<img src=http://x.io>", "![a](http://x.io)", "&lt;"),
            *("[a](//x.io)", "<http://x.io>", "http://x.io", "www.x.io", "[a]: //x.io", "```", "~~~", "`", "|"),
            *("# ", "- ", "1. ", "> ", "***", "___", "__a__"),
        ]
    )
    | st.text(max_size=5),
    max_size=8,
).map("".join)


def dangerous(text: str) -> list[str]:
    """The characters that a terminal interprets."""
    return [c for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in BIDI]


def elements(page: str) -> set[str]:
    """The kinds of tokens that a page of Markdown consists of."""
    parser = MarkdownIt("commonmark", {"linkify": True}).enable("table")
    return {token.type for block in parser.parse(page) for token in (block, *(block.children or ()))}


@given(HOSTILE)
@example("\x1b[31m\x9b\u202e")
def test_nothing_that_is_printed_reaches_the_terminal_as_a_control(text: str) -> None:
    assert not dangerous(printable(text))
    assert not dangerous(str(DlmError(text, hint=text)))
    assert printable(printable(text)) == printable(text)
    assert json.loads(printable_json({text: [text]})) == {text: [text]} and not dangerous(printable_json(text))


@given(text=HOSTILE)
def test_say_and_the_console_escape(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    say(text, err=True)
    table = Table("a", title=text)
    table.add_row(text)
    out = console()
    out.print(table)
    out.print(text)
    shown = capsys.readouterr()
    assert not dangerous(shown.out + shown.err)


def test_the_console_interprets_no_markup_and_keeps_its_own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = console()
    with out.capture() as captured:
        out.print("[red]a[/red] [link=http://x.io]b[/link] \x1b[5m", style="green")
    assert "[red]a[/red] [link=http://x.io]b[/link] \\x1b[5m" in captured.get()
    assert captured.get().startswith("\x1b[32m"), "the style of our own output"


def test_warnings_are_escaped_and_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr():
        logging.getLogger("dlm_trl.rows.builder").warning("Skipped %s", "\x1b[2J http://me:word@host")
    assert capsys.readouterr().err == "Skipped \\x1b[2J http://…@host\n"


@given(HOSTILE)
@example("1. one")
@example("www.x.io [a](http://x.io) `code` <b>")
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    shown = " ".join(printable(text).split())
    parser = MarkdownIt("commonmark")
    assert elements(f"- {markdown(text)}") <= {
        *("bullet_list_open", "list_item_open", "paragraph_open", "inline", "text", "text_special"),
        *("paragraph_close", "list_item_close", "bullet_list_close"),
    }
    (inline,) = [token for token in parser.parse(f"a {markdown(text)}") if token.type == "inline"]
    assert "".join(token.content for token in inline.children or ()) == f"a {shown}".rstrip()
    row = MarkdownIt("commonmark").enable("table").parse(f"| a | b |\n|---|---|\n| {markdown(text)} | x |\n")
    assert sum(token.type == "td_open" for token in row) == 2


@given(HOSTILE)
def test_inline_code_is_one_span(text: str) -> None:
    (inline,) = [token for token in MarkdownIt("commonmark").parse(f"a {code(text)} b") if token.type == "inline"]
    assert [token.type for token in inline.children or ()] == ["text", "code_inline", "text"]
    assert (inline.children or ())[1].content.strip() == " ".join(printable(text).split())


def test_ordinary_text_stays_readable() -> None:
    for text in (
        "smollm2-135m",
        "exact match, seen (share)",
        "-0.123",
        "3.5",
        "a & b",
        "snake_case",
        "12:30",
        "x (y)!",
    ):
        assert markdown(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("vllm-server:http://host:8000/?key=Zx81", "vllm-server:http://host:8000/?…"),
        ("http://me:wo@Zx81@host:80/v1", "http://…@host:80/v1"),
        ("http://me:wo/Zx81@host", "http://…@host"),
        ("http://me:wo?Zx81@host/v1", "http://…"),
        ("http://host:80/?a=b@Zx81", "http://…"),
        ("https://Zx81@host/a", "https://…@host/a"),
        ("me:Zx81@host:8000", "…@host:8000"),
        ("m?api_key=Zx81", "m?api_key=…"),
        ("Authorization: Bearer Zx81abcdefgh", "Authorization: Bearer …"),
        ("authorization: Basic bWU6Wng4MQ==", "authorization: Basic …"),
        ("Incorrect key sk-proj-Zx81Zx81Zx81Zx81", "Incorrect key sk-…"),
        ("http://a:1,http://b:2/v1#org/model", "http://a:1,http://b:2/v1#org/model"),
        (
            "notes.dlm:3:1: it's basic English, see https://docs.io/a.",
            "notes.dlm:3:1: it's basic English, see https://docs.io/a.",
        ),
    ],
)
def test_passwords_and_keys_are_removed(text: str, shown: str) -> None:
    assert redact(text) == shown == redact(shown)
    assert str(DlmError(text, hint=text)) == f"{shown} {shown}"
    assert DlmError(text).message == shown


def test_keys_in_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "correct-horse")
    monkeypatch.setenv("VLLM_API_KEY", "EMPTY")
    assert mask_keys("sent correct-horse to EMPTY") == "sent … to EMPTY"
    assert str(DlmError("sent correct-horse")) == "sent …"


@pytest.mark.parametrize("piece", ["://", "a:", "?key=", "a:b@", "bearer ", "http://a?", "sk-", "-", "\x1b", "`", "1."])
def test_long_texts_take_no_time(piece: str) -> None:
    text = piece * 20_000  # quadratic time would be minutes
    for function in (redact, printable, markdown, code):
        function(text)
