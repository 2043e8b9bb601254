"""The few-shot list that asks for the question that a sentence answers, as a beginning to go on with or as a request.

The wording is part of every request's key in the ledger: raise `synth.prompts.PROMPT_VERSION` when you change it.
"""

from __future__ import annotations

# The question about a single sentence. Each example's question begins in another way.
_QUESTION_EXAMPLES = (
    ("A ridgepole is the horizontal beam at the top of a tent.", "What is a ridgepole?"),
    ("The ferry to the island takes 40 minutes.", "How long does the ferry to the island take?"),
    (
        "Wool keeps you warm even when it is wet, because its fibres hold air.",
        "Why does wool keep you warm even when it is wet?",
    ),
    (
        "If the lamp blinks red, press the reset button for three seconds.",
        "What should you do if the lamp blinks red?",
    ),
    ("The bark of a young birch is called paper bark.", "What is the bark of a young birch called?"),
    (
        "Bees carry pollen from flower to flower, and that helps fruit trees.",
        "What do bees carry from flower to flower?",
    ),
    ("A litre of sea water holds 35 grams of salt.", "How many grams of salt does a litre of sea water hold?"),
    ("Keep the seeds in a dry tin.", "Where should you keep the seeds?"),
    ("Oak burns slowly and gives a lasting heat.", "What kind of heat does oak give?"),
)
_EXAMPLE = "Fact: {fact}\nQuestion: {question}"


def question_list(fact: str, opening: str = "") -> str:
    """The examples, the fact and the opening of its question, to be continued by a base model."""
    return question_list_prefix() + _EXAMPLE.format(fact=fact, question=opening).strip()


def question_list_prefix() -> str:
    """The examples, with which every `question_list` begins, so that they can be computed once."""
    return "".join(f"{_EXAMPLE.format(fact=fact, question=question)}\n\n" for fact, question in _QUESTION_EXAMPLES)


def continued_questions(fact: str, opening: str) -> tuple[list[dict[str, str]], str]:
    """A request for the question that `fact` answers, for a teacher that can continue a reply.

    Returns the messages, and how the reply begins: with the list. A small model goes on with a list that it seems to
    have written better than it follows instructions.
    """
    messages = [{"role": "user", "content": "Write facts, each with the question that it answers."}]
    return messages, question_list(fact, opening)


def question_messages(fact: str, language: str | None = None) -> list[dict[str, str]]:
    """The messages that ask for the question that `fact` answers. language: of the question, if that isn't English."""
    task = f"Write the question that the last fact answers{f', in {language}' if language else ''}."
    return [{"role": "user", "content": f"{task}\n\n{question_list(fact)}"}]
