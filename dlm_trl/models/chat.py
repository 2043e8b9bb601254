"""Conversations through the tokenizer's chat template: the only module that calls `apply_chat_template`.

    require_template(tokenizer, "The teacher hf:tiny")
    ids = encode(tokenizer, [{"role": "user", "content": "What is hooch?"}])         # ready for the answer
    ids, start = encode_answered(tokenizer, messages, "A dark liquid.")              # the answer begins at ids[start]

Templates of models that can think before they answer are told not to, in training as in generation: the notes hold
answers, not thoughts. Other templates ignore the flag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from dlm_trl.notes.errors import ChatTemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]

_INSTRUCTED = "Choose a model that was tuned to follow instructions."
_OTHER_TEMPLATE = "Use another chat template; if it is the system prompt, remove it from the frontmatter."
_GENERATION_PROMPT = "Use a template whose generation prompt is how the assistant's turn begins, up to a token's end."
_SHOWN = 16  # tokens of what an error quotes


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(tokenizer.chat_template)


def require_template(tokenizer: PreTrainedTokenizerBase, who: str = "The tokenizer", hint: str = _INSTRUCTED) -> None:
    """Raises ChatTemplateError, with `who` as its subject, if the tokenizer has no chat template."""
    if not has_template(tokenizer):
        raise ChatTemplateError(f"{who} has no chat template, and conversations need one.", hint)


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, who: str = "the tokenizer") -> str:
    """The conversation as text; a conversation that ends with the user's turn gets the generation prompt.

    Raises ChatTemplateError, naming the model as `who`, if the template refuses the messages.
    """
    (text,) = _apply(tokenizer, [messages], who, tokenize=False)
    return str(text)


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages, who: str = "the tokenizer") -> list[int]:
    """As `render`, as token ids."""
    return encode_all(tokenizer, [messages], who)[0]


def encode_all(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], who: str = "the tokenizer"
) -> list[list[int]]:
    """The token ids of each conversation; all must end with a turn of the same role."""
    return [list(ids) for ids in _apply(tokenizer, conversations, who, tokenize=True)]


def encode_answered(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, answer: str, where: str = ""
) -> tuple[list[int], int]:
    """The ids of a conversation with its answer and the end of that turn, and the index at which the answer begins.

    Raises ChatTemplateError as `split_answers` does.
    """
    answered = [*messages, {"role": "assistant", "content": answer}]
    (found,) = split_answers(tokenizer, [answered], [where])
    return found


def split_answers(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], places: Sequence[str]
) -> list[tuple[list[int], int]]:
    """For conversations that end with the assistant's turn: their ids, and the index at which the answer begins.

    places: where each conversation comes from, for errors. Raises ChatTemplateError if the template refuses a
    conversation, or renders a prompt differently once the answer follows: its answer can't be told from its prompt.
    """
    prompts = encode_all(tokenizer, [conversation[:-1] for conversation in conversations])
    wholes = encode_all(tokenizer, conversations)
    for prompt, whole, place in zip(prompts, wholes, places, strict=True):
        if whole[: len(prompt)] != prompt:
            same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
            alone, answered = tokenizer.decode(prompt[same:]), tokenizer.decode(whole[same : same + _SHOWN])
            raise ChatTemplateError(
                f"{f'{place}: the' if place else 'The'} chat template renders the prompt differently once the answer "
                f"follows: {answered!r} instead of {alone!r}.",
                _GENERATION_PROMPT,
            )
    return [(whole, len(prompt)) for prompt, whole in zip(prompts, wholes, strict=True)]


def answer_lead(tokenizer: PreTrainedTokenizerBase, who: str = "the tokenizer") -> str:
    """What the template puts between its generation prompt and an answer, such as a blank."""
    answer = "N/A"
    question = [{"role": "user", "content": "?"}]
    before = render(tokenizer, question, who)
    whole = render(tokenizer, [*question, {"role": "assistant", "content": answer}], who)
    if not whole.startswith(before):
        return ""
    lead, found, _ = whole[len(before) :].partition(answer)
    return lead if found else ""


def _apply(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], who: str, tokenize: bool
) -> list[str] | list[list[int]]:
    if not conversations:
        return []
    try:
        found = tokenizer.apply_chat_template(
            [[dict(message) for message in messages] for messages in conversations],
            add_generation_prompt=conversations[0][-1]["role"] != "assistant",
            tokenize=tokenize,
            return_dict=tokenize,
            enable_thinking=False,
            # No warning about a text longer than the context: callers check the length.
            tokenizer_kwargs={"verbose": False},
        )
    except TemplateError as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise ChatTemplateError(
            f"The chat template of {who} refuses a conversation: {why}.", _OTHER_TEMPLATE
        ) from error
    return list(found["input_ids"] if tokenize else found)
