"""What all teachers have in common: a request, a reply, and the one method `generate`.

    for reply in teacher.generate(requests): …      # any order; reply.key says which request it answers

A reply that could not be had is a reply with an `error`: one request that fails stops no other.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation that the teacher is to go on with.

    key names the request and is the source of its sampling noise: the same key gives the same text, whatever else is
    asked beside it. schema is a JSON schema that the reply should keep to, used where a server knows how to.
    """

    key: str
    messages: Sequence[Mapping[str, str]]
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request as the teacher counted them; zeros for a request that never got a reply."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: text, or an error in one line; and what it used, which a refusal does, too. seconds is the time
    that it took.
    """

    key: str
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    error: str | None = None


class TeacherFacts(Protocol):
    """What planning needs of a teacher; it can be had without weights and without a request (`open.survey`).

    reference is what the user wrote (`hf:tiny`), revision what tells two states of the same reference apart (a commit,
    an adapter's version, a server's model name); both are part of a request's key in the ledger, without addresses.
    """

    reference: str
    revision: str

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """Tokens of these messages with the chat template around them; None where there is no tokenizer at hand."""
        ...

    @property
    def context(self) -> int | None:
        """The longest prompt and reply together, in tokens; None where it is not known."""
        ...


class Teacher(TeacherFacts, Protocol):
    """Anything that answers requests."""

    def generate(self, requests: Sequence[Request]) -> Generator[Reply]:
        """One reply for each request, in any order, as they come; who does not take all of them closes the generator.

        Raises DlmError where nothing can be asked at all.
        """
        ...
