"""The files that make merged weights usable: config.json, the tokenizer with its chat template, and
generation_config.json with the right end tokens.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dlm_trl.models.chat import has_template
from dlm_trl.notes.errors import BaseModelError, ChatTemplateError, TokenizerError

GENERATION = "generation_config.json"


def model_config(base: Path, architecture: str, stored: str, dtype: str | None, untie: bool) -> dict[str, Any]:
    """The merged model's config.json, from the base's.

    stored: the dtype of the base's weights; dtype: the requested one. Without a request the base's own setting stays,
    since transformers loads the model in it. untie: whether the merge separated tied embeddings.
    """
    config = read_json(base / "config.json")
    recorded = config.pop("torch_dtype", None)  # the old name of dtype
    config = {"architectures": [architecture], "dtype": recorded or stored} | config
    config |= {"dtype": dtype} if dtype else {}
    return config | {"tie_word_embeddings": False} if untie else config


def load_tokenizer(adapter: Path, base: Path, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer saved with the adapter, else the base's.

    rows: the number of token embeddings of the merged model. Raises DlmError (TokenizerError) for a tokenizer that
    doesn't load or has more tokens than that.
    """
    folder = tokenizer_folder(adapter, base)
    tokenizer = open_tokenizer(folder)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise TokenizerError(
            f"The vocabulary is too large: token {tokenizer.convert_ids_to_tokens(highest)!r} has id {highest}, and "
            f"the base has embeddings for {rows} tokens.",
            hint="Use the base that was resized for this tokenizer, or the tokenizer of this base.",
            path=folder,
        )
    return tokenizer


def tokenizer_folder(adapter: Path, base: Path) -> Path:
    """The folder with an adapter's tokenizer: its own, else its base's."""
    return adapter if (adapter / "tokenizer_config.json").is_file() else base


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Raises DlmError: TokenizerError if it doesn't load, ChatTemplateError if its chat template has a syntax error.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises all kinds of exceptions for damaged files
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise TokenizerError(
            f"The tokenizer doesn't load: {reason}.",
            hint="Copy the model's tokenizer.json and tokenizer_config.json into this folder again.",
            path=folder,
        ) from error
    if has_template(tokenizer):
        try:
            tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
        except TemplateSyntaxError as error:
            raise ChatTemplateError(
                f"Syntax error in the chat template, line {error.lineno}: {error.message}",
                hint="Copy the chat template that the model was trained with into this folder.",
                path=folder,
            ) from error
        except TemplateError:  # the template may reject this conversation
            pass
    return tokenizer


def generation_config(
    adapter: Path, base: Path, tokenizer: PreTrainedTokenizerBase, rows: int
) -> tuple[dict[str, Any], list[str]]:
    """The content of generation_config.json, and a note for each correction.

    Starts from the adapter's file, else the base's. Adds the tokenizer's end token to the end tokens. Removes end
    tokens that don't exist, and the pad token if it isn't also the end token: servers stop at every end token, so with
    a pad token among them answers come out empty.
    """
    source = adapter if (adapter / GENERATION).is_file() else base
    config = read_json(source / GENERATION) if (source / GENERATION).is_file() else {}
    notes = []
    recorded = config.get("eos_token_id")
    ends = list(recorded) if isinstance(recorded, list) else [] if recorded is None else [recorded]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
        notes.append(f"added the tokenizer's end token {tokenizer.eos_token_id} to the end tokens")
    config.setdefault("pad_token_id", tokenizer.pad_token_id)
    config.setdefault("bos_token_id", tokenizer.bos_token_id)
    for end in list(ends):
        if not isinstance(end, int) or not 0 <= end < rows:
            ends.remove(end)
            notes.append(f"removed the end token {end!r}, which the model doesn't have")
        elif end in (config.get("pad_token_id"), tokenizer.pad_token_id) and end != tokenizer.eos_token_id:
            ends.remove(end)
            notes.append(f"removed the pad token {end} from the end tokens")
    if not ends:
        notes.append("no end token is known, so every text runs to its length limit")
    config["eos_token_id"] = ends if len(ends) > 1 else next(iter(ends), None)
    return {key: value for key, value in config.items() if value is not None}, [f"{GENERATION}: {n}" for n in notes]


def quantization_config(folder: Path) -> dict[str, Any] | None:
    """How the weights in this folder are quantised; None for 16-bit weights, and without a config.json.

    Raises DlmError (BaseModelError) for an invalid config.json.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return config.get("quantization_config")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DlmError (BaseModelError) with the file's path."""
    hint = "Copy or download the file again."
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError(f"Can't read the file: {error.strerror}.", hint, path=file) from error
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"Invalid JSON: {error}.", hint, path=file) from error
    if not isinstance(content, dict):
        raise BaseModelError("Not a JSON object.", hint, path=file)
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write JSON like transformers does: two spaces, sorted keys, a newline at the end."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
