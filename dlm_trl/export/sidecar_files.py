"""What stands beside merged weights so that they can be used: config.json, tokenizer with chat template, and
generation_config.json with the right end tokens.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dlm_trl.models.chat import has_template
from dlm_trl.notes.errors import BaseModelError, ChatTemplateError, TokenizerError

GENERATION = "generation_config.json"


def model_config(base: Path, architecture: str, stored: str, dtype: str | None, untie: bool) -> dict[str, Any]:
    """The base's config.json; stored is the dtype that its weights are in, dtype the one that was asked for.

    What the base says of its dtype stays, for transformers loads it in that; untie where embeddings have parted.
    """
    config = read_json(base / "config.json")
    said = config.pop("torch_dtype", None)  # the name of old
    config = {"architectures": [architecture], "dtype": said or stored} | config
    config |= {"dtype": dtype} if dtype else {}
    return config | {"tie_word_embeddings": False} if untie else config


def load_tokenizer(adapter: Path, base: Path, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved beside the adapter, else the base's.

    rows is how many tokens the merged model has an embedding for. Raises DlmError (TokenizerError) for a tokenizer
    that does not load or has a token beyond them.
    """
    folder = tokenizer_folder(adapter, base)
    tokenizer = open_tokenizer(folder)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise TokenizerError(
            f"The vocabulary's size differs: token {tokenizer.convert_ids_to_tokens(highest)!r} is number "
            f"{highest}, and the base has embeddings for {rows} tokens.",
            hint="Give the base that was resized for this tokenizer, or the tokenizer of this base.",
            path=folder,
        )
    return tokenizer


def tokenizer_folder(adapter: Path, base: Path) -> Path:
    """Where an adapter's tokenizer lies: beside it, else with its base."""
    return adapter if (adapter / "tokenizer_config.json").is_file() else base


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. Raises DlmError: TokenizerError for one that does not load, ChatTemplateError for a
    chat template that is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of any kind: what a file is not is found out where it is used
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise TokenizerError(
            f"The tokenizer does not load: {reason}.",
            hint="Put tokenizer.json and tokenizer_config.json of the model, whole, into the folder.",
            path=folder,
        ) from error
    if has_template(tokenizer):
        try:
            tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
        except TemplateSyntaxError as error:
            raise ChatTemplateError(
                f"The chat template cannot be read: line {error.lineno}: {error.message}",
                hint="Put the chat template that the model was trained with into the folder.",
                path=folder,
            ) from error
        except TemplateError:  # it may refuse this conversation
            pass
    return tokenizer


def generation_config(
    adapter: Path, base: Path, tokenizer: PreTrainedTokenizerBase, rows: int
) -> tuple[dict[str, Any], list[str]]:
    """What generation_config.json is to say, and a note for each thing that was put right in it.

    It is the adapter's, else the base's, with the tokenizer's end token among the end tokens, and without ids that the
    model does not have or a pad token of its own: servers stop at any of them, so that a pad token gives empty answers.
    """
    source = adapter if (adapter / GENERATION).is_file() else base
    config = read_json(source / GENERATION) if (source / GENERATION).is_file() else {}
    notes = []
    said = config.get("eos_token_id")
    ends = list(said) if isinstance(said, list) else [] if said is None else [said]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
        notes.append(f"the tokenizer's end token {tokenizer.eos_token_id} was no end token")
    config.setdefault("pad_token_id", tokenizer.pad_token_id)
    config.setdefault("bos_token_id", tokenizer.bos_token_id)
    for end in list(ends):
        if not isinstance(end, int) or not 0 <= end < rows:
            ends.remove(end)
            notes.append(f"end token {end!r} is no token of the model")
        elif end in _pads(config, tokenizer) and end != tokenizer.eos_token_id:
            ends.remove(end)
            notes.append(f"the pad token {end} was an end token")
    if not ends:
        notes.append("there is no end token, so every text runs to its limit")
    config["eos_token_id"] = ends if len(ends) > 1 else next(iter(ends), None)
    return {key: value for key, value in config.items() if value is not None}, [f"{GENERATION}: {n}" for n in notes]


def quantization_config(folder: Path) -> dict[str, Any] | None:
    """How the weights of this folder are quantised; None for 16-bit weights, and for a folder without a config.json.

    Raises DlmError (BaseModelError) for a config.json that isn't one.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return config.get("quantization_config")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises DlmError (BaseModelError) naming it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError(f"It cannot be read: {error.strerror}.", path=file) from error
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"It is not JSON: {error}.", path=file) from error
    if not isinstance(content, dict):
        raise BaseModelError("It is not a JSON object.", path=file)
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """As transformers writes its files: two spaces, sorted keys, a newline at the end."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _pads(config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterable[int | None]:
    return config.get("pad_token_id"), tokenizer.pad_token_id
