"""The teacher protocol: `Request`, `Reply`, and `Teacher` with its one method, `generate`.

    for reply in teacher.generate(requests): …      # in any order; reply.key is the key of its request

A request that fails gets a reply with an `error`; the other requests go on.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """A conversation for the teacher to continue.

    key: identifies the request and seeds its sampling; a local teacher gives the same reply to the same key, whatever
    else is in the batch. schema: a JSON schema for the reply, used by servers with structured output. opening: how the
    assistant's turn begins; a local teacher's reply continues it, servers aren't told. stop: strings at which a local
    teacher's reply ends.
    """

    key: str
    messages: Sequence[Mapping[str, str]]
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    opening: str = ""
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the teacher counted them; zeros for a request that got no reply."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Reply:
    """The text, or an error in one line.

    usage: also counted for a refusal. seconds: how long the reply took. is_truncated: the text ends at a limit on
    tokens, not where the teacher ended it. is_too_long: the error is that the prompt exceeds the teacher's context.
    """

    key: str
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    error: str | None = None
    is_truncated: bool = False
    is_too_long: bool = False


class TeacherInfo(Protocol):
    """What planning needs to know about a teacher, without its weights or a request (see `load.inspect_teacher`).

    reference: as the user wrote it (`hf:tiny`). revision: what distinguishes two states of one reference (a commit, an
    adapter's version, a server's model name). Both go into a request's key in the ledger; servers' addresses don't.
    """

    @property
    def reference(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def context(self) -> int | None:
        """The most tokens that prompt and reply may have together; None if unknown."""
        ...

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """Tokens of the prompt, chat template included; None without a local tokenizer."""
        ...


class Teacher(TeacherInfo, Protocol):
    """Anything that answers requests."""

    def generate(self, requests: Sequence[Request]) -> Generator[Reply]:
        """One reply per request, in any order, as they complete; close the generator to stop early.

        Raises DlmError if no request can succeed.
        """
        ...
