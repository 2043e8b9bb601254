"""Chat templates: the only module that calls `apply_chat_template`.

    require_template(tokenizer, "The teacher hf:tiny")
    ids = encode(tokenizer, [{"role": "user", "content": "What is hooch?"}])         # with the generation prompt
    ids, start = encode_answered(tokenizer, messages, "A dark liquid.")              # the loss begins at ids[start]
    set_thinking(tokenizer, False)                                                   # for this tokenizer and its copies

What messages say never becomes a control token (see `control_tokens`). Thinking is off unless `set_thinking` turned it
on: the notes contain answers, not reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from dlm_trl.models.control_tokens import StandIns, after_marks, encode_text, encode_texts, leading_mark, mark
from dlm_trl.notes.errors import ChatTemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]

_INSTRUCTION_TUNED = "Choose an instruction-tuned model."
_OTHER_TEMPLATE = "Use another chat template; if it's the system prompt, remove it from the frontmatter."
_GENERATION_PROMPT = (
    "Set chat_template_path to a template whose generation prompt is the beginning of the assistant's turn."
)
ONLY_PARTS = (
    "It takes content as a list of parts (for images) and not as text: set chat_template_path to a template for text."
)
_QUOTED_TOKENS = 16  # that an error shows
_CLOSING_TAG = re.compile(r"</(\w+)>")
# The first line of a template that knows the variable: the default for everyone who renders it, such as a server. Jinja
# drops the newline after it.
_THINKING = "{{% if enable_thinking is not defined %}}{{% set enable_thinking = {} %}}{{% endif %}}\n"
_THINKING_ON, _THINKING_OFF = _THINKING.format("true"), _THINKING.format("false")


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(tokenizer.chat_template)


def require_template(
    tokenizer: PreTrainedTokenizerBase, who: str = "The tokenizer", hint: str = _INSTRUCTION_TUNED
) -> None:
    """Raise ChatTemplateError, with `who` as its subject, if the tokenizer has no chat template."""
    if not has_template(tokenizer):
        raise ChatTemplateError(f"{who} has no chat template, which conversations need.", hint)


def set_thinking(tokenizer: PreTrainedTokenizerBase, enable: bool) -> None:
    """Make `enable` the default of the chat template's variable `enable_thinking`.

    The template is saved with the tokenizer, so servers render it the same way unless a request sets the variable.
    Raises ChatTemplateError for `enable` if the template doesn't use the variable.
    """
    template = str(tokenizer.get_chat_template()) if has_template(tokenizer) else ""
    template = template.removeprefix(_THINKING_ON).removeprefix(_THINKING_OFF)
    if re.search(r"\benable_thinking\b", template):
        template = (_THINKING_ON if enable else _THINKING_OFF) + template
        named = tokenizer.chat_template
        tokenizer.chat_template = {**named, "default": template} if isinstance(named, dict) else template
    elif enable:
        raise ChatTemplateError(
            "enable_thinking is set, and the chat template doesn't use it.",
            "Leave enable_thinking out, or choose a base whose template has it.",
        )


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, who: str = "the tokenizer") -> str:
    """The conversation as marked text, with the generation prompt unless the last message is the assistant's.

    Marked text is for `control_tokens.encode_text`. who: the model's name, for errors. Raises ChatTemplateError if the
    template refuses the messages.
    """
    return _render(tokenizer, [messages], who, [""])[0]


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages, who: str = "the tokenizer") -> list[int]:
    """Like `render`, as token ids."""
    return encode_text(tokenizer, render(tokenizer, messages, who))


def encode_answered(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, answer: str, where: str = ""
) -> tuple[list[int], int]:
    """The token ids of messages, answer and end of turn, and the number of those that are the prompt.

    Raises ChatTemplateError as `split_answers` does.
    """
    (encoded,) = split_answers(tokenizer, [[*messages, {"role": "assistant", "content": answer}]], [where])
    return encoded


def encode_questions(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], answers: Sequence[str]
) -> list[list[int]]:
    """The token ids of each conversation up to where its answer begins in `split_answers`.

    They are the generation prompt and whatever the template puts before an answer, such as an empty think block. Raises
    ChatTemplateError as `split_answers` does.
    """
    # An answer that doesn't begin with the same character shares no token with this one.
    others = ["?" if answer.strip().startswith("N") else "N/A" for answer in answers]
    with_answer, with_other = (
        split_answers(
            tokenizer,
            [[*c, {"role": "assistant", "content": t}] for c, t in zip(conversations, texts, strict=True)],
            [""] * len(texts),
        )
        for texts in (answers, others)
    )
    return [
        [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, other, strict=False))]
        for (ids, _), (other, _) in zip(with_answer, with_other, strict=True)
    ]


def split_answers(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], places: Sequence[str]
) -> list[tuple[list[int], int]]:
    """The token ids of conversations that end with the assistant's turn, and the number of those that are the prompt.

    The prompt is what a server gives the model to continue. If that ends by opening a think block, the rest closes the
    block before the answer. If the template leaves the end of the turn to the next speaker's control token, as GLM's
    does, the rest ends with that. places: where each conversation comes from, for errors. Raises ChatTemplateError if
    the template refuses a conversation, or renders a prompt differently once it is answered.
    """
    who = "the tokenizer"
    prompts = _render(tokenizer, [conversation[:-1] for conversation in conversations], who, places)
    wholes = _render(tokenizer, conversations, who, places)
    prompt_ids, whole_ids = encode_texts(tokenizer, prompts), encode_texts(tokenizer, wholes)
    split = []
    for row, (prompt, whole) in enumerate(zip(prompt_ids, whole_ids, strict=True)):
        if whole[: len(prompt)] != prompt:
            completion = _completion(tokenizer, prompts[row], wholes[row])
            if completion is None:
                raise _differs(tokenizer, prompt, whole, places[row])
            whole = prompt + encode_text(tokenizer, completion)
        answer = conversations[row][-1]["content"].strip()
        if answer and answer in after_marks(wholes[row]):
            whole = whole + _next_speaker(tokenizer, conversations[row], wholes[row])
        split.append((whole, len(prompt)))
    return split


def answer_lead(tokenizer: PreTrainedTokenizerBase, who: str = "the tokenizer") -> str:
    """What the template puts between its generation prompt and an answer, such as a space, as marked text."""
    answer = "N/A"
    question = [{"role": "user", "content": "?"}]
    prompt = render(tokenizer, question, who)
    whole = render(tokenizer, [*question, {"role": "assistant", "content": answer}], who)
    lead, separator, _ = (_completion(tokenizer, prompt, whole) or "").partition(answer)
    return lead if separator else ""


def missing_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], texts: Sequence[str]) -> str | None:
    """The first of the texts that these tokens don't say, up to how the tokenizer normalises; None if they say all."""
    found = str(tokenizer.decode(ids))
    for text in texts:
        # Tokenizers that normalise don't decode to the same text.
        if text.strip() not in found and str(tokenizer.decode(encode_text(tokenizer, text))).strip() not in found:
            return text
    return None


def takes_only_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template renders content that is a list of parts, as for images, and not a text."""

    def renders(content: object) -> bool:
        try:
            return "N/A" in tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        except (TemplateError, TypeError):
            return False

    return not renders("N/A") and renders([{"type": "text", "text": "N/A"}])


def _completion(tokenizer: PreTrainedTokenizerBase, prompt: str, whole: str) -> str | None:
    """What follows the prompt in the answered conversation, as marked text; None if that begins differently.

    The prompt may end with a think block that the answered conversation lacks; if the block is open, this closes it.
    """
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    for name in dict.fromkeys(_CLOSING_TAG.findall(str(tokenizer.get_chat_template()))):
        opening, closing = mark(tokenizer, f"<{name}>"), mark(tokenizer, f"</{name}>")
        block = re.search(rf"{re.escape(opening)}\s*({re.escape(closing)}\s*)?\Z", prompt)
        if block and whole.startswith(prompt[: block.start()]):
            rest = whole[block.start() :].removeprefix(opening)
            closes = rest.lstrip().startswith(closing)
            if block[1] is None:
                return rest if closes else f"\n{closing}\n\n{rest}"
            return rest.lstrip().removeprefix(closing).lstrip() if closes else rest
    return None


def _next_speaker(tokenizer: PreTrainedTokenizerBase, conversation: Messages, rendered: str) -> list[int]:
    """The control token that follows the conversation when it goes on; none if text follows."""
    longer = render(tokenizer, [*conversation, {"role": "user", "content": "?"}])
    return encode_text(tokenizer, leading_mark(longer[len(rendered) :])) if longer.startswith(rendered) else []


def _differs(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], whole: Sequence[int], place: str
) -> ChatTemplateError:
    same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
    alone, answered = tokenizer.decode(prompt[same:]), tokenizer.decode(whole[same : same + _QUOTED_TOKENS])
    return ChatTemplateError(
        f"{_template_at(place)} renders the prompt differently once the answer follows: "
        f"{answered!r} instead of {alone!r}.",
        _GENERATION_PROMPT,
    )


def _render(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], who: str, places: Sequence[str]
) -> list[str]:
    """Each conversation as marked text."""
    stand_ins = StandIns(tokenizer)
    rendered = []
    for messages, place in zip(conversations, places, strict=True):
        hidden = [{**message, "content": stand_ins.hide(message["content"])} for message in messages]
        try:
            text = tokenizer.apply_chat_template(
                hidden,
                add_generation_prompt=hidden[-1]["role"] != "assistant",
                tokenize=False,
                enable_thinking=str(tokenizer.get_chat_template()).startswith(_THINKING_ON),
            )
        except TemplateError as error:
            why = " ".join(str(error).split()).rstrip(".")
            hint = ONLY_PARTS if takes_only_parts(tokenizer) else _OTHER_TEMPLATE
            raise ChatTemplateError(f"{_template_at(place)} of {who} refuses a conversation: {why}.", hint) from error
        rendered.append(stand_ins.show(mark(tokenizer, text)))
    return rendered


def _template_at(place: str) -> str:
    return f"{place}: the chat template" if place else "The chat template"
