"""Chat templates: the only module that calls `apply_chat_template`.

    require_template(tokenizer, "The teacher hf:tiny")
    ids = encode(tokenizer, [{"role": "user", "content": "What is hooch?"}])         # with the generation prompt
    ids, start = encode_answered(tokenizer, messages, "A dark liquid.")              # the answer begins at ids[start]

`enable_thinking=False` goes to every template, in training as in generation: the notes contain answers, not reasoning.
Templates without that option ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from dlm_trl.notes.errors import ChatTemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]

_INSTRUCTION_TUNED = "Choose an instruction-tuned model."
_OTHER_TEMPLATE = "Use another chat template; if it's the system prompt, remove it from the frontmatter."
_GENERATION_PROMPT = (
    "Use a template whose generation prompt is the beginning of the assistant's turn and ends between two tokens."
)
_QUOTED_TOKENS = 16  # that an error shows


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(tokenizer.chat_template)


def require_template(
    tokenizer: PreTrainedTokenizerBase, who: str = "The tokenizer", hint: str = _INSTRUCTION_TUNED
) -> None:
    """Raise ChatTemplateError, with `who` as its subject, if the tokenizer has no chat template."""
    if not has_template(tokenizer):
        raise ChatTemplateError(f"{who} has no chat template, which conversations need.", hint)


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, who: str = "the tokenizer") -> str:
    """The conversation as text, with the generation prompt unless the last message is the assistant's.

    who: the model's name, for errors. Raises ChatTemplateError if the template refuses the messages.
    """
    (text,) = _apply(tokenizer, [messages], who, tokenize=False)
    return str(text)


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages, who: str = "the tokenizer") -> list[int]:
    """Like `render`, as token ids."""
    return encode_all(tokenizer, [messages], who)[0]


def encode_all(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], who: str = "the tokenizer"
) -> list[list[int]]:
    """The token ids of each conversation; all must end with a message of the same role."""
    return [list(ids) for ids in _apply(tokenizer, conversations, who, tokenize=True)]


def encode_answered(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, answer: str, where: str = ""
) -> tuple[list[int], int]:
    """The token ids of messages, answer and end of turn, and the index at which the answer begins.

    Raises ChatTemplateError as `split_answers` does.
    """
    (encoded,) = split_answers(tokenizer, [[*messages, {"role": "assistant", "content": answer}]], [where])
    return encoded


def split_answers(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], places: Sequence[str]
) -> list[tuple[list[int], int]]:
    """The token ids of conversations that end with the assistant's turn, and the index at which each answer begins.

    places: where each conversation comes from, for errors. Raises ChatTemplateError if the template refuses a
    conversation, or renders a prompt differently once it is answered, which hides where the answer begins.
    """
    prompts = encode_all(tokenizer, [conversation[:-1] for conversation in conversations])
    wholes = encode_all(tokenizer, conversations)
    for prompt, whole, place in zip(prompts, wholes, places, strict=True):
        if whole[: len(prompt)] != prompt:
            same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
            alone, answered = tokenizer.decode(prompt[same:]), tokenizer.decode(whole[same : same + _QUOTED_TOKENS])
            raise ChatTemplateError(
                f"{f'{place}: the' if place else 'The'} chat template renders the prompt differently once the answer "
                f"follows: {answered!r} instead of {alone!r}.",
                _GENERATION_PROMPT,
            )
    return [(whole, len(prompt)) for prompt, whole in zip(prompts, wholes, strict=True)]


def answer_lead(tokenizer: PreTrainedTokenizerBase, who: str = "the tokenizer") -> str:
    """What the template puts between its generation prompt and an answer, such as a space."""
    answer = "N/A"
    question = [{"role": "user", "content": "?"}]
    prompt = render(tokenizer, question, who)
    whole = render(tokenizer, [*question, {"role": "assistant", "content": answer}], who)
    if not whole.startswith(prompt):
        return ""
    lead, separator, _ = whole[len(prompt) :].partition(answer)
    return lead if separator else ""


def _apply(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], who: str, tokenize: bool
) -> list[Any]:
    """A text per conversation, or its token ids."""
    if not conversations:
        return []
    try:
        rendered = tokenizer.apply_chat_template(
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
    return list(rendered["input_ids"] if tokenize else rendered)
