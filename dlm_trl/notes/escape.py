"""Make text from elsewhere safe to show: `printable` for terminals, `markdown` and `code` for cards and reports,
`redact` for errors and logs.

Documents, staged pairs, ledgers, adapters and servers contain text that someone else wrote. In a terminal it could move
the cursor or hide what follows; in a card it could load a picture from a server.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

# Control characters but tabs and line feeds, those that change the direction of text, and lone surrogates, which can't
# be encoded.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# What Markdown would interpret in a line of text. `http\://` and `www\.` keep GitHub from making links.
_MARKUP = re.compile(r"[\\`*\[\]<>|]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w)|:(?=//)|(?<=www)\.", re.IGNORECASE)
# Where a line would start a heading, a list, a rule or a block of code.
_BLOCK = re.compile(r"\A(?:(?=#{1,6}(?:\s|\Z)|[-+](?:[\s-]|\Z)|~~~)|\d{1,9}(?=[.)](?:\s|\Z)))")

# `//` starts the host of a URL.
_ABSOLUTE = re.compile(r"\A((?:[\w-]+:)*?)(?:/(?!/)|~/|[A-Za-z]:[/\\])(?:[^\n]*[/\\])?([^\n/\\]+)[/\\]?\Z")

# Environment variables with keys. Shorter keys are placeholders, and may occur in any text.
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "VLLM_API_KEY", "HF_TOKEN")
MIN_SECRET = 8
# The lengths are limited so that matching stays linear.
_URL = re.compile(r"([A-Za-z][\w+.-]{0,20}://)([^\s'\"`<>]{1,2000})")
_SECRETS = (
    (re.compile(r"(?<![\w.+-])[\w.+-]{1,100}:[^\s@/]{1,200}@(?=[\w\[])"), "…@"),  # user:password@host
    (re.compile(r"([?&][\w-]{0,40}(?:key|token|secret|passw|auth|sig)[\w-]{0,40}=)[^\s&'\"`]+", re.IGNORECASE), r"\1…"),
    (re.compile(r"\b(bearer|basic)\s(?=[\w.~+/-]{0,200}[\d=])[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 …"),
    (re.compile(r"\b(sk-|hf_)[\w-]{16,}"), r"\1…"),
)


def printable(text: str) -> str:
    """The text with control characters escaped (`\\x1b`), because a terminal would interpret them."""
    return _CONTROL.sub(lambda character: ascii(character[0])[1:-1], text)


def printable_json(value: Any, indent: int | None = None) -> str:
    """JSON that is safe to print, and reads back as the same value."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _CONTROL.sub(lambda character: f"\\u{ord(character[0]):04x}", text)


def markdown(text: object) -> str:
    """One line of Markdown that shows the text as it is: without links, pictures, HTML, code or table cells."""
    line = _MARKUP.sub(r"\\\g<0>", " ".join(printable(str(text)).split()))
    return _BLOCK.sub(r"\g<0>\\", line)


def code(text: object) -> str:
    """The text as inline code; in a table, replace `|` by `\\|`."""
    line = " ".join(printable(str(text)).split()) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in (line[0], line[-1]) else ""
    return f"{fence}{space}{line}{space}{fence}"


def redact(text: str) -> str:
    """The text without keys, and without the passwords and queries of URLs."""
    text = _URL.sub(_without_secrets, mask_keys(text))
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def without_folders(text: str) -> str:
    """A path, or a model or teacher that lies at one (`hf:/home/me/model`), without the folders of this machine."""
    return _ABSOLUTE.sub(r"\1\2", text)


def mask_keys(text: str) -> str:
    """The text without the keys that are set in the environment."""
    for name in _KEYS:
        text = mask(text, os.environ.get(name, ""))
    return text


def mask(text: str, key: str) -> str:
    """The text without this key, unless it is only a placeholder."""
    key = key.strip()
    return text.replace(key, "…") if len(key) >= MIN_SECRET else text


def _without_secrets(url: re.Match[str]) -> str:
    scheme, rest = url.groups()
    before, at, host = rest.rpartition("@")
    if "?" in before:  # a password or a query with an @
        return f"{scheme}…"
    path, query, _ = host.partition("?")
    return scheme + (f"…@{path}" if at else path) + ("?…" if query else "")
