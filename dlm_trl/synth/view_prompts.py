"""The prompts that ask a teacher for views of a fact, one for each kind, and the parser of its replies.

    messages, begin, lines = view_messages("rewrite", fact.sentence, background, known, n=3, continues=True)
    views, problem = parse_views("rewrite", lines + reply.text)

A reply is plain lines, because a small model can't write JSON: a view per line, or `Q:` and `A:` for a question. The
examples show what is wanted; their number of lines is what a model writes. The wording is part of every request's key
in the ledger: raise `VIEW_PROMPT_VERSION` when you change it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.replies import Parsed, parse_reply
from dlm_trl.synth.view_kinds import PAIR_KINDS, ViewKind

VIEW_PROMPT_VERSION = "views-1"

MAX_LINES = 4  # views in a reply that continues the examples, which have as many
STOP = ("\n\n", "\nBackground:", "\nFact:", "\nText:")  # a small model goes on with a fact of its own
CORRECTION = "Your reply could not be read: {problem} Reply with plain lines only, as in the examples."
TOKENS: dict[ViewKind, int] = {"question": 44, "reverse": 40, "rewrite": 48, "implication": 56, "summary": 112}

_TASKS: dict[ViewKind, str] = {
    "question": "Write questions about the fact with their answers, each in other words. "
    "Each question can be understood without the fact. Each answer is short and says only what the fact says.",
    "reverse": "Name what the fact is about, then write a question to which that name is the answer. The question says "
    "what the fact says of it, without the name, and can be understood without the fact.",
    "rewrite": "Say the fact in other words, in another order. Each sentence says all of the fact and nothing else, "
    "and can be understood alone.",
    "implication": "Write what follows from the fact: what it means in practice, or what must be true if it is. "
    "Each sentence names what it is about, can be understood alone, and is certain.",
    "summary": "Sum up the text in two or three sentences. They say only what the text says, name what they are about, "
    "and can be understood alone.",
}


class _Example(NamedTuple):
    fact: str
    views: tuple[str | tuple[str, str], ...]
    background: str = ""


_FERRY = "The ferry to the island takes 40 minutes and does not run on Sundays."
_WOOL = "Wool keeps you warm even when it is wet, because its fibres hold air."
_RIDGE = "A ridgepole is the horizontal beam at the top of a tent."
_LAMP_BEFORE = "The lamp of a Nordlys stove shows how it is doing."
_LAMP = "If it blinks red, press reset for 3 seconds."

_EXAMPLES: dict[ViewKind, tuple[_Example, ...]] = {
    "question": (
        _Example(
            _FERRY,
            (
                ("How long does the ferry to the island take?", "40 minutes."),
                ("On which day is there no ferry to the island?", "On Sundays."),
                ("I want to go to the island by ferry. How much time should I plan for the trip?", "40 minutes."),
                ("When does the ferry to the island not run?", "It does not run on Sundays."),
            ),
        ),
        _Example(
            _LAMP,
            (
                ("What should you do if the lamp of a Nordlys stove blinks red?", "Press reset for 3 seconds."),
                ("For how long do you press reset when the red lamp of a Nordlys stove blinks?", "For 3 seconds."),
                ("When do you have to press reset on a Nordlys stove?", "When its lamp blinks red."),
                ("The lamp of my Nordlys stove is blinking red. Which button helps?", "The reset button."),
            ),
            _LAMP_BEFORE,
        ),
        _Example(
            _WOOL,
            (
                ("Why does wool keep you warm even when it is wet?", "Because its fibres hold air."),
                ("What do the fibres of wool hold?", "Air."),
                ("Does wool still warm you after it got wet?", "Yes, its fibres hold air, so it keeps you warm."),
                ("What makes wet wool warm?", "The air that its fibres hold."),
            ),
        ),
    ),
    "reverse": (
        _Example(
            _RIDGE,
            (
                ("What is the horizontal beam at the top of a tent called?", "A ridgepole."),
                ("Which part of a tent is a beam that lies at its top?", "The ridgepole."),
                ("What has a ridgepole at its top?", "A tent."),
                ("Where in a tent is its ridgepole?", "At the top."),
            ),
        ),
        _Example(
            _LAMP,
            (
                ("Which button do you press for 3 seconds if the lamp of a Nordlys stove blinks red?", "Reset."),
                ("Which stove has a lamp that blinks red when it needs a reset?", "The Nordlys stove."),
                ("What blinks red when you should press reset on a Nordlys stove?", "Its lamp."),
                ("In which colour does the lamp of a Nordlys stove blink when it needs a reset?", "Red."),
            ),
            _LAMP_BEFORE,
        ),
        _Example(
            _WOOL,
            (
                ("What keeps you warm even when it is wet?", "Wool."),
                ("Which material has fibres that hold air?", "Wool."),
                ("What is in the fibres of wool that makes it warm?", "Air."),
                ("Which part of wool holds air?", "Its fibres."),
            ),
        ),
        _Example(
            _FERRY,
            (
                ("What takes 40 minutes to get to the island?", "The ferry."),
                ("Where does the ferry go that takes 40 minutes?", "To the island."),
                ("On which day of the week does the ferry to the island stay away?", "Sunday."),
                ("What does not run on Sundays?", "The ferry to the island."),
            ),
        ),
    ),
    "rewrite": (
        _Example(
            _FERRY,
            (
                "You reach the island by ferry in 40 minutes, but not on a Sunday.",
                "There is no ferry to the island on Sundays; on other days the trip takes 40 minutes.",
                "Except on Sundays, a ferry goes to the island, and the crossing lasts 40 minutes.",
                "A trip on the island ferry is 40 minutes long, and on Sundays the ferry stays in the harbour.",
            ),
        ),
        _Example(
            _LAMP,
            (
                "When the lamp of a Nordlys stove blinks red, hold the reset button for 3 seconds.",
                "Pressing reset for 3 seconds is what a red, blinking lamp on a Nordlys stove asks for.",
                "On a Nordlys stove, a lamp that blinks red means that you should press reset for 3 seconds.",
                "You press reset on a Nordlys stove for 3 seconds if you see its lamp blink red.",
            ),
            _LAMP_BEFORE,
        ),
        _Example(
            _WOOL,
            (
                "Because the fibres of wool hold air, wool warms you even if it is wet.",
                "Even wet wool is warm, since there is air in its fibres.",
                "The air that is held by the fibres of wool keeps you warm, also when the wool is wet.",
                "Wool holds air in its fibres, and that is why it still keeps you warm when it gets wet.",
            ),
        ),
    ),
    "implication": (
        _Example(
            _FERRY,
            (
                "Someone who wants to get to the island on a Sunday can't take the ferry.",
                "An hour is enough time for a trip on the ferry to the island.",
                "There and back, the ferry to the island takes longer than an hour.",
                "If you have to be on the island on Monday morning, the ferry can't bring you there the day before.",
            ),
        ),
        _Example(
            _LAMP,
            (
                "A Nordlys stove whose lamp blinks red needs a reset.",
                "A short press of reset is not enough when the lamp of a Nordlys stove blinks red.",
                "As long as the lamp of a Nordlys stove doesn't blink red, there is no need to press reset.",
                "You have to watch the lamp of a Nordlys stove to know when to press reset.",
            ),
            _LAMP_BEFORE,
        ),
        _Example(
            _WOOL,
            (
                "In the rain, a coat of wool is a better choice than one of a material that is cold when it is wet.",
                "Wool would not be as warm if its fibres held no air.",
                "A wool sock that got wet in a stream still helps against the cold.",
                "Getting wet does not stop wool from warming you.",
            ),
        ),
    ),
    "summary": (
        _Example(
            "A ridgepole is the horizontal beam at the top of a tent. It carries the cloth. In a strong wind it bends "
            "first, so it is made of ash. Most tents need a ridgepole of 2 metres.",
            (
                "The ridgepole is the beam at the top of a tent that carries the cloth. It is made of ash, since it is "
                "the first to bend in a strong wind, and in most tents it is 2 metres long.",
            ),
        ),
        _Example(
            "Wool keeps you warm even when it is wet, because its fibres hold air. It must not be washed hot: it "
            "shrinks. Dry it flat on a towel. Moths eat wool, and cedar wood keeps them away.",
            (
                "The air in its fibres makes wool warm, also when it is wet. Wool shrinks in hot water, is dried flat "
                "on a towel, and is kept from moths with cedar wood.",
            ),
        ),
    ),
}  # fmt: skip

_BULLET = re.compile(r"^\s*(?:[-*+•]|\(?\d{1,2}[.):])\s*")
_LABELLED = re.compile(r"\W*(?:\d+[.)]\s*)?\W*(A(?:nswer)?|Q(?:uestion)?)\s*\d*\W*?[:：]\W*?\s*(\S.*)", re.IGNORECASE)
_LABEL = re.compile(r"^\s*(?:Fact|Summary|Rewrite|Sentence)\s*\d*\s*:\s*", re.IGNORECASE)


def view_messages(
    kind: ViewKind,
    fact: str,
    background: str = "",
    known: Sequence[QAPair] = (),
    n: int = 1,
    language: str | None = None,
    continues: bool = True,
    seed: QAPair | None = None,
) -> tuple[list[dict[str, str]], str, str]:
    """The messages that ask for n more views of a fact, how a reply begins that the teacher continues, and its lines.

    The lines are the end of that beginning, to be parsed with the reply: `parse_views(kind, lines + reply)`.

    fact: a sentence, or a text for a summary. background: sentences to which it refers. known: views of this kind that
    exist already; the reply goes on from them. language: of the views, if it isn't English. seed: a reverse question
    that was written by rule; the next one is to have the same answer. Of a teacher that doesn't continue replies, the
    beginning is part of its message.
    """
    task = _TASKS[kind] + (f" Write in {language}." if language else "")
    n_lines = min(MAX_LINES, len(known) + n)
    shown = [_shown(kind, *example._replace(views=example.views[:n_lines])) for example in _EXAMPLES[kind]]
    begin = "\n\n".join([*shown, _shown(kind, fact, [_plain(kind, view) for view in known], background)])
    lines = f"{_line(kind, _plain(kind, seed))}\n" if seed else ""
    if continues:
        lines += f"{_mark(kind)} {seed.answer}\nQ:" if seed else _mark(kind)
        return [{"role": "user", "content": task}], f"{begin}\n{lines}", lines
    more = n - bool(seed)
    wanted = f"Write {more} more for the last one." if known or seed else f"Write {more} for the last one."
    content = f"{task}\n\n{begin}\n{lines}".rstrip() + f"\n\n{wanted} Reply with these lines only."
    return [{"role": "user", "content": content}], "", lines


def parse_views(kind: ViewKind, text: str, is_truncated: bool = False) -> Parsed:
    """The views in a reply: pairs, or texts as pairs with an empty question.

    is_truncated: the reply was cut off, so its last line is dropped.
    """
    if kind == "question":
        pairs, _ = parse_reply(text, is_truncated)
        return Parsed(pairs, None if pairs else "There is no question with an answer after it in the reply.")
    if kind == "reverse":
        return _answers_first(text, is_truncated)
    lines = text.strip().splitlines()
    if is_truncated:
        lines = lines[:-1]
    texts = [_LABEL.sub("", _BULLET.sub("", line)).strip().strip('"“”').strip() for line in lines]
    found = [QAPair("", view) for view in texts if view]
    return Parsed(found, None if found else "There is no line with a sentence in the reply.")


def _answers_first(text: str, is_truncated: bool) -> Parsed:
    """The pairs in lines `A: …`, each followed by its question; a question without an answer has the one before it."""
    lines = text.strip().splitlines()
    pairs, answer = [], None
    for line in lines[:-1] if is_truncated else lines:
        if match := _LABELLED.fullmatch(line):
            if match[1].upper().startswith("A"):
                answer = match[2]
            elif answer:
                pairs.append(QAPair(match[2], answer))
    return Parsed(pairs, None if pairs else "There is no answer with a question after it in the reply.")


def examples(kind: ViewKind) -> str:
    """The task and the examples of a kind, which views must not repeat."""
    return "\n\n".join([_TASKS[kind], *(_shown(kind, *example) for example in _EXAMPLES[kind])])


def _shown(kind: ViewKind, fact: str, views: Sequence[str | tuple[str, str]], background: str = "") -> str:
    head = [f"Background: {background}"] if background else []
    head.append(f"{'Text' if kind == 'summary' else 'Fact'}: {' '.join(fact.split())}")
    return "\n".join([*head, *(_line(kind, view) for view in views)])


def _line(kind: ViewKind, view: str | tuple[str, str]) -> str:
    if isinstance(view, str):
        return f"{_mark(kind)} {view}"
    question, answer = view
    return f"A: {answer}\nQ: {question}" if kind == "reverse" else f"Q: {question}\nA: {answer}"


def _plain(kind: ViewKind, view: QAPair) -> str | tuple[str, str]:
    question, answer = (" ".join(text.split()) for text in view)
    return (question, answer) if kind in PAIR_KINDS else answer


def _mark(kind: ViewKind) -> str:
    """What a view's line begins with. The answer of a reverse question comes first: so a small model asks for it."""
    return {"question": "Q:", "reverse": "A:", "summary": "Summary:"}.get(kind, "-")
