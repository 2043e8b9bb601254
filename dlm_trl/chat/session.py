"""A conversation with a model: `Session(chat_model).ask("What is hooch?", on_text)`.

The model reads the system prompt, the earlier turns as far as its context has room for them, and the question, encoded
as the recipe measures answers. With `use_notes` it reads the notes and the question alone, which is the open book.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel

from dlm_trl.chat.opening import ChatModel
from dlm_trl.evaluation.open_book import OpenBook
from dlm_trl.models.chat import encode_questions
from dlm_trl.models.frozen import frozen
from dlm_trl.models.generate import generate_stream, row_seed
from dlm_trl.models.load import context_length
from dlm_trl.models.prefix import PrefixCache
from dlm_trl.notes.errors import UsageError

MAX_CONTEXT = 4096  # tokens of a conversation, of which the answer is a part
ANY_ANSWER = "N/A"  # a prompt ends where an answer begins, whatever that is


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer.

    base: without the adapter. notes: with the notes in the prompt. dropped: how many of the oldest turns no longer fit.
    complete: False if the user stopped the answer. tokens: of the answer.
    """

    question: str
    answer: str
    base: bool
    notes: bool
    dropped: int
    tokens: int
    seconds: float
    complete: bool = True


class Session:
    """max_new_tokens: the most tokens of an answer. temperature: 0 is greedy. seed: of sampling."""

    def __init__(self, chat: ChatModel, max_new_tokens: int = 256, temperature: float = 0.0, seed: int = 0) -> None:
        self.chat = chat
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed
        self.use_base = self.use_notes = False
        self.turns: list[Turn] = []
        context = context_length(chat.model.config)
        self.context = MAX_CONTEXT if context is None else min(MAX_CONTEXT, context)

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter to switch off."""
        return isinstance(self.chat.model, PeftModel)

    def ask(self, question: str, on_text: Callable[[str], object]) -> Turn:
        """Answer, and remember the turn; on_text gets the answer piece by piece.

        A KeyboardInterrupt ends the answer, and the turn has what was written so far. Raises DlmError (UsageError) for
        a question that is too long.
        """
        turn = self._answer(question, self.turns, on_text)
        self.turns = [*self.turns[turn.dropped :], turn]
        return turn

    def ask_again(self, on_text: Callable[[str], object]) -> Turn:
        """Answer the last question again, as now set, to compare; the conversation keeps the first answer."""
        return self._answer(self.turns[-1].question, self.turns[:-1], on_text)

    def reset(self) -> None:
        """Forget the conversation."""
        self.turns = []

    def _answer(self, question: str, turns: list[Turn], on_text: Callable[[str], object]) -> Turn:
        pieces: list[str] = []

        def add(text: str) -> None:
            shown = text if pieces else text.lstrip()
            if shown:
                pieces.append(shown)
                on_text(shown)

        started, dropped, tokens, complete = time.monotonic(), 0, 0, True
        try:
            with self._model() as model:
                prompt, prefix, dropped = self._prompt(model, question, turns)
                seed = row_seed(self.seed, len(self.turns), question)
                written = generate_stream(
                    model, self.chat.tokenizer, prompt, self.max_new_tokens, add, self.temperature, seed, prefix
                )
                tokens = written.new_tokens
        except KeyboardInterrupt:
            complete = False
        seconds = round(time.monotonic() - started, 2)
        answer = "".join(pieces).strip()
        return Turn(question, answer, self.use_base, self.use_notes, dropped, tokens, seconds, complete)

    @contextmanager
    def _model(self) -> Iterator[PreTrainedModel | PeftModel]:
        """The model, without its adapter if that is switched off."""
        if self.use_base and isinstance(self.chat.model, PeftModel):
            with frozen(self.chat.model) as base:
                yield base
        else:
            yield self.chat.model

    def _prompt(
        self, model: PreTrainedModel | PeftModel, question: str, turns: list[Turn]
    ) -> tuple[list[int], PrefixCache | None, int]:
        """The token ids, the cache of their beginning if there is one, and how many turns were dropped."""
        if self.use_notes:
            asked = {"chat": [(question, ANY_ANSWER, self.chat.system)]}
            book = OpenBook.of(model, self.chat.tokenizer, asked, self.chat.notes, self.max_new_tokens)
            if book is None:
                raise self._too_long("The question leaves no room for the notes")
            return list(book.prompts["chat"][0]), book.prefix, 0
        for dropped in range(len(turns) + 1):
            ids = self._encode(question, turns[dropped:])
            if len(ids) + self.max_new_tokens <= self.context:
                return ids, None, dropped
        raise self._too_long(f"The question has {len(ids)} tokens, template included")

    def _encode(self, question: str, turns: list[Turn]) -> list[int]:
        messages = [{"role": "system", "content": self.chat.system}] if self.chat.system is not None else []
        for turn in turns:
            messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
        (ids,) = encode_questions(
            self.chat.tokenizer, [[*messages, {"role": "user", "content": question}]], [ANY_ANSWER]
        )
        return ids

    def _too_long(self, what: str) -> UsageError:
        return UsageError(
            f"{what}: there are {self.context} tokens for question and answer, {self.max_new_tokens} of them for the "
            "answer.",
            hint="Ask a shorter question, or lower --max-new-tokens.",
        )
