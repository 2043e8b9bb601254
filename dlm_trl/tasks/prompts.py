"""Prompts of the built-in tasks: multiple-choice symbol binding (MCSB) and questions about prose.

An MCSB question asks which lettered word a description means, and ends right before the label. The frozen base writes
the description by continuing a few-shot list (`description_prefix` + `description_prompt`). The embedded base was
trained on variants of all these texts except the MCSB question.

Source of the task: Robinson et al., "Leveraging Large Language Models for Multiple Choice Question Answering"
(ICLR 2023), and M. Robeyns, "Fixing LLM Defects and Adding Skills with Synthetic Data" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

# These words are excluded from the task, so that no description is given away.
FEW_SHOT: tuple[tuple[str, str], ...] = (
    ("umbrella", "a folding cover that keeps the rain off one person"),
    ("lighthouse", "a tower by the sea with a strong light that guides ships"),
    ("orchard", "a piece of land where fruit trees are grown"),
    ("violin", "a small wooden instrument with four strings, played with a bow"),
)


def description_prefix(examples: Sequence[tuple[str, str]] = FEW_SHOT) -> str:
    """The few-shot list, the same for every word, so its KV cache is computed once per run."""
    return "".join(f"Word: {word}\nDescription: {description}\n\n" for word, description in examples)


def description_prompt(word: str) -> str:
    """The prompt for one word, after the prefix; the description ends at the next newline."""
    return f"Word: {word}\nDescription:"


def answer_range(labels: Sequence[str]) -> str:
    """The labels as the question shows them: `A to E`."""
    return f"{labels[0]} to {labels[-1]}"


def question(description: str, options: Sequence[str], labels: Sequence[str]) -> str:
    """The MCSB question; its answer is a space and one label.

    labels: in order, one per option. Raises ValueError if the lengths differ.
    """
    lines = [f"{label}) {option}" for label, option in zip(labels, options, strict=True)]
    return "\n".join([f"Description: {description}", *lines, f"Answer ({answer_range(labels)}):"])


def open_book(prose: str, question: str) -> str:
    """The user's message that asks a question with the notes at hand."""
    return f"Notes:\n\n{prose}\n\nAnswer with the words of the notes.\n\n{question}"


def span_question_messages(prose: str, span: str) -> list[dict[str, str]]:
    """Messages that ask for a question about `prose` with the answer `span`."""
    content = f"Write a question about the text below. Its answer is: {span}\n\nText:\n{prose.strip()}"
    return [{"role": "user", "content": content}]


def span_check_messages(prose: str, question: str) -> list[dict[str, str]]:
    """Messages that ask `question` with the prose at hand; the reply should be the span."""
    content = f"Answer the question with words from the text below. Question: {question}\n\nText:\n{prose.strip()}"
    return [{"role": "user", "content": content}]
