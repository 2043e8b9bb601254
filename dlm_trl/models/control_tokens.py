"""Tokenise texts so that control tokens only come from chat templates, never from what a text says.

    encode_text(tokenizer, "A turn ends with <|im_end|>.")           # the letters of <|im_end|>, not the token
    text = mark(tokenizer, template_output)                          # its control tokens are marked: they are meant
    encode_text(tokenizer, text + "Say <|im_end|>.")                 # one token, and the letters of another

Text without the name of a control token gets the ids that the tokenizer itself gives. Other text goes through a copy of
the tokenizer in which the control tokens have secret names: those in marked text, which no other text contains. All
else (normalisation, merges, prefixes) is the tokenizer's own.
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dlm_trl.notes.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_SECRET = secrets.token_hex(16)
_MARK = re.compile(rf"<{_SECRET}:(\d+)>")
_ANY_MARKUP = re.compile(r"[<\[].+[>\]]", re.DOTALL)
_CONTROL_MARKUP = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
_PRIVATE_USE = 0xF0000
_QUOTED = 60  # characters of a text that an error shows


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], add_special_tokens: bool = False
) -> list[list[int]]:
    """The token ids of each text. Only marked control tokens become control tokens.

    add_special_tokens: also those that the tokenizer puts around a text, such as BOS. Raises DlmError (TokenizerError)
    if a text names a control token and the tokenizer has no fast implementation.
    """
    control = _control_tokens(tokenizer)
    spelled = [control.named_in(text) for text in texts]
    plain = [control.unmark(text) for text, special in zip(texts, spelled, strict=True) if not special]
    options = {"add_special_tokens": add_special_tokens}
    # No warning about texts longer than the context: callers check the length.
    ids = iter(tokenizer(plain, verbose=False, **options)["input_ids"] if plain else ())
    return [
        control.copy(text).encode(text, **options).ids if special else list(next(ids))
        for text, special in zip(texts, spelled, strict=True)
    ]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = False) -> list[int]:
    """`encode_texts` for one text."""
    return encode_texts(tokenizer, [text], add_special_tokens)[0]


def names_control_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text spells a control token, which the tokenizer itself would take for the token."""
    return _control_tokens(tokenizer).named_in(text)


def mark(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Marks all control tokens that the text names, so that they become tokens."""
    return _control_tokens(tokenizer).mark(text)


def after_marks(text: str) -> str:
    """What follows the last marked control token."""
    return _MARK.split(text)[-1]


def leading_mark(text: str) -> str:
    """The marked control token that the text begins with, else ""."""
    found = _MARK.match(text)
    return found[0] if found else ""


class StandIns:
    """Replaces the names of control tokens by single characters, and these by the names again.

    A chat template gets texts in this form, so that it neither splits them at `</think>` nor has its own control tokens
    confused with theirs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._names = _control_tokens(tokenizer).names_or_private_use
        self._characters: dict[str, str] = {}

    def hide(self, text: str) -> str:
        """The text with stand-ins. Private-use characters get one too, so none is mistaken for a stand-in."""

        def stand_in(found: re.Match[str]) -> str:
            return self._characters.setdefault(found[0], chr(_PRIVATE_USE + len(self._characters)))

        return self._names.sub(stand_in, text)

    def show(self, text: str) -> str:
        """The text without stand-ins."""
        return text.translate({ord(character): name for name, character in self._characters.items()})


class _ControlTokens:
    """The control tokens of a tokenizer.

    They are its special tokens (but a `!` that pads is text), other added tokens of the form `<|…|>`, and tags such as
    `<think>` that are added tokens and appear in the chat template. Added words and runs of spaces are text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.state = _state(tokenizer)
        template, special = str(tokenizer.chat_template), {*tokenizer.all_special_tokens}
        self.ids = {
            token.content: i
            for i, token in tokenizer.added_tokens_decoder.items()
            if ((token.special or token.content in special) and len(token.content.strip()) > 1)
            or _CONTROL_MARKUP.fullmatch(token.content)
            or (_ANY_MARKUP.fullmatch(token.content) and token.content in template)
        }
        self._names = {i: content for content, i in self.ids.items()}
        self._backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        self._pattern = _alternatives(self.ids)
        self._folded = _alternatives(map(_fold, self.ids))
        self.names_or_private_use = re.compile(f"{self._pattern.pattern}|[\U000f0000-\U000ffffd]")

    def named_in(self, text: str) -> bool:
        """Whether the text names a control token, up to what tokenizers may normalise."""
        return bool(self._pattern.search(text) or self._folded.search(_fold(text)))

    def mark(self, text: str) -> str:
        return self._pattern.sub(lambda found: _marked(self.ids[found[0]]), text)

    def unmark(self, text: str) -> str:
        return _MARK.sub(lambda found: self._names[int(found[1])], text)

    def copy(self, text: str) -> Tokenizer:
        """The tokenizer to read this text with."""
        if self._backend is None:
            raise TokenizerError(
                f"A text contains the name of a control token: {self.unmark(text)[:_QUOTED]!r}. Without a fast "
                "tokenizer, it can't be told from the token.",
                hint="Write it differently, such as with spaces in it, or use a base with a tokenizer.json.",
            )
        return self._renamed

    @cached_property
    def _renamed(self) -> Tokenizer:
        """A copy of the tokenizer in which each control token is called by its mark. Takes about a second."""
        from tokenizers import Tokenizer

        assert self._backend is not None
        names = {content: _marked(i) for content, i in self.ids.items()}
        saved: dict[str, Any] = json.loads(self._backend.to_str()) | {"truncation": None, "padding": None}
        for token in saved["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = saved["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if "merges" in model:  # some vocabularies can also merge a control token from its letters
            model["merges"] = [m for m in model["merges"] if not {*m, "".join(m)} & names.keys()]
        return Tokenizer.from_str(json.dumps(saved))


_known: WeakKeyDictionary[PreTrainedTokenizerBase, _ControlTokens] = WeakKeyDictionary()


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> _ControlTokens:
    found = _known.get(tokenizer)
    if found is None or found.state != _state(tokenizer):
        found = _known[tokenizer] = _ControlTokens(tokenizer)
    return found


def _state(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    """What decides which tokens are control tokens."""
    return tokenizer.chat_template, len(tokenizer), tuple(tokenizer.all_special_tokens)


def _marked(token: int) -> str:
    return f"<{_SECRET}:{token}>"


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _alternatives(names: Any) -> re.Pattern[str]:
    """A pattern that matches any of the names, longest first. Without names, it matches nothing."""
    longest_first = sorted({*names}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
