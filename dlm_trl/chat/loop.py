"""The dialogue: `chat_at_terminal(session)`, `chat_by_lines(session, sys.stdin)`, `answer_once(session, question)`.

Answers go to stdout, everything else to stderr. At a terminal an answer appears as it is written, elsewhere when it is
complete.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict

from dlm_trl.chat.session import Session, Turn
from dlm_trl.notes import DlmError
from dlm_trl.notes.escape import printable_json
from dlm_trl.notes.terminal import say

HELP = """\
/base   switch the adapter off or on again; the last question is answered by the base, to compare
/notes  put the notes into the prompt, or leave them out again; the last question is answered with them
/reset  forget the conversation
/exit   end (also Ctrl+D)
Ctrl+C stops an answer."""


def chat_at_terminal(session: Session) -> None:
    """Ask for questions until the user ends it."""
    with suppress(ImportError):  # Windows
        import readline  # noqa: F401  # line editing and history for input()
    say("Ask a question. /help lists the commands; Ctrl+D ends.", err=True)
    while True:
        try:
            line = input(_prompt(session)).strip()
        except EOFError:
            say(err=True)
            return
        except KeyboardInterrupt:
            say("\n/exit or Ctrl+D ends the chat.", err=True)
            continue
        try:
            if line and not _take(session, line, as_json=False):
                return
        except DlmError as error:
            say(error, err=True)


def chat_by_lines(session: Session, lines: Iterable[str], as_json: bool = False) -> bool:
    """A question or command per line; Ctrl+C ends it. Returns whether all of them were answered."""
    answered = True
    for line in map(str.strip, lines):
        try:
            if line and not _take(session, line, as_json):
                break
        except DlmError as error:
            answered = False
            say(error, err=True)
        if session.turns and not session.turns[-1].complete:
            raise KeyboardInterrupt
    return answered


def answer_once(session: Session, question: str, as_json: bool = False) -> None:
    """One answer. Raises KeyboardInterrupt if the user stops it, DlmError for a question that is too long."""
    _ask(session, question, as_json)
    if not session.turns[-1].complete:
        raise KeyboardInterrupt


def _take(session: Session, line: str, as_json: bool) -> bool:
    """Do what the line says; returns False if it ends the chat."""
    match line:
        case "/exit":
            return False
        case "/reset":
            session.reset()
            say("The conversation is forgotten.", err=True)
        case "/help":
            say(HELP, err=True)
        case "/base" if not session.has_adapter:
            say("This model has no adapter to switch off.", err=True)
        case "/base":
            session.use_base = not session.use_base
            say("The adapter is off." if session.use_base else "The adapter is on.", err=True)
            _ask_again(session, session.use_base, as_json)
        case "/notes" if not session.chat.notes:
            say("The notes aren't known. Start with --notes FILE.dlm.", err=True)
        case "/notes":
            session.use_notes = not session.use_notes
            state = "in the prompt, earlier turns aren't" if session.use_notes else "no longer in the prompt"
            say(f"The notes are {state}.", err=True)
            _ask_again(session, session.use_notes, as_json)
        case _ if line.startswith("/") and " " not in line:
            say(f"Unknown command {line}. /help lists the commands.", err=True)
        case _:
            _ask(session, line, as_json)
    return True


def _ask(session: Session, question: str, as_json: bool) -> None:
    _show(session.ask(question, _write if _streams(as_json) else _ignore), as_json)


def _ask_again(session: Session, switched_on: bool, as_json: bool) -> None:
    if switched_on and session.turns:
        _show(session.ask_again(_write if _streams(as_json) else _ignore), as_json)


def _show(turn: Turn, as_json: bool) -> None:
    """The answer if it wasn't shown while it was written, and what else is to be said about it."""
    if as_json:
        say(printable_json(asdict(turn)))
    elif _streams(as_json):
        say()
    else:
        say(turn.answer)
    if not turn.complete:
        say("Stopped.", err=True)
    elif not turn.answer:
        say("The model said nothing.", err=True)
    if turn.dropped:
        turns = "turn was" if turn.dropped == 1 else f"{turn.dropped} turns were"
        say(f"The conversation is longer than the model's context: the oldest {turns} dropped.", err=True)


def _prompt(session: Session) -> str:
    states = [name for name, is_on in (("base", session.use_base), ("notes", session.use_notes)) if is_on]
    return f"{'+'.join(states)}> "


def _streams(as_json: bool) -> bool:
    return not as_json and sys.stdout.isatty()


def _write(text: str) -> None:
    say(text, end="")


def _ignore(text: str) -> None:
    pass
