"""The words of the online tasks: multiple-choice symbol binding (MCSB) and questions about prose.

MCSB asks which of several lettered words a description means. The description is written by the frozen base, which
continues a few-shot list (`description_prefix` + `description_prompt`); the question (`question`) ends right before the
label. The embedded base was trained on several wordings of everything here but the MCSB question, which it never saw.

Source of the task: Robinson et al., "Leveraging Large Language Models for Multiple Choice Question Answering"
(ICLR 2023), and M. Robeyns, "Fixing LLM Defects and Adding Skills with Synthetic Data" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

# The words are outside the task's own vocabulary, so that no description is given away.
FEW_SHOT: tuple[tuple[str, str], ...] = (
    ("umbrella", "a folding cover that keeps the rain off one person"),
    ("lighthouse", "a tower by the sea with a strong light that guides ships"),
    ("orchard", "a piece of land where fruit trees are grown"),
    ("violin", "a small wooden instrument with four strings, played with a bow"),
)


def description_prefix(examples: Sequence[tuple[str, str]] = FEW_SHOT) -> str:
    """The few-shot list, the same for every word: its KV cache can be computed once for a whole run."""
    return "".join(f"Word: {word}\nDescription: {description}\n\n" for word, description in examples)


def description_prompt(word: str) -> str:
    """What follows the prefix for one word; the base's description ends at the next newline."""
    return f"Word: {word}\nDescription:"


def answer_range(labels: Sequence[str]) -> str:
    """The labels as the question names them: `A to E`."""
    return f"{labels[0]} to {labels[-1]}"


def question(description: str, options: Sequence[str], labels: Sequence[str]) -> str:
    """The MCSB question; the answer is one label with a space before it.

    `options` and `labels` have the same length; labels stand in order. Raises ValueError when the lengths differ.
    """
    lines = [f"{label}) {option}" for label, option in zip(labels, options, strict=True)]
    return "\n".join([f"Description: {description}", *lines, f"Answer ({answer_range(labels)}):"])


def span_question_messages(prose: str, span: str) -> list[dict[str, str]]:
    """The chat that asks for a question about `prose` whose answer is `span`."""
    content = f"Write a question about the text below. Its answer is: {span}\n\nText:\n{prose.strip()}"
    return [{"role": "user", "content": content}]


def span_check_messages(prose: str, question: str) -> list[dict[str, str]]:
    """The chat that asks `question` with the prose at hand: the reply must give the span back."""
    content = f"Answer the question with words from the text below. Question: {question}\n\nText:\n{prose.strip()}"
    return [{"role": "user", "content": content}]
