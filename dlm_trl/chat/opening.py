"""From what a user names to a model to talk to: `open_model("runs/notes")`.

It may be a run's folder (an adapter), a merged or quantized model, a `.dlm` document (its current adapter), or a base
model's name. The document that the model was trained on is found by the lineage beside the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.export.adapter import is_adapter
from dlm_trl.export.sidecar_files import quantization_config
from dlm_trl.models import lineage
from dlm_trl.models.chat import require_template
from dlm_trl.models.load import adapter_base, adapter_quantization, load_for_inference
from dlm_trl.notes import DlmError, Document, read
from dlm_trl.notes.errors import BaseModelError, MissingExtraError
from dlm_trl.notes.extras import install_command, require_extra
from dlm_trl.notes.store import trained_adapter
from dlm_trl.rows.parsed import parsed_rows


@dataclass(frozen=True)
class ChatModel:
    """A model to talk to.

    about: what it is, in words. system: the document's system prompt. notes: the document's prose, empty if the
    document isn't known. remarks: what the user should know, such as that the document has moved.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    about: str
    system: str | None
    notes: tuple[str, ...]
    remarks: tuple[str, ...]


def open_model(source: str, notes: Path | None = None, adapter_name: str | None = None) -> ChatModel:
    """Load the model, in the precision that it's measured in.

    notes: the document, if it has moved since training. adapter_name: which of a document's named adapters. Raises
    DlmError for any other source, and for AWQ weights if the library that runs them is not installed.
    """
    remarks: list[str] = []
    document: Document | None
    if source.endswith(".dlm"):
        document = read(notes or source)
        hint = "Choose one with --adapter-name."
        folder = trained_adapter(read(source), adapter_name, hint, "give the folder of a model.")
        source = str(folder)
    else:
        folder = Path(source).expanduser()
        _check(folder)
        document = read(notes) if notes else _recorded_document(folder, remarks)
    adapted = is_adapter(folder)
    quantization = adapter_quantization(folder) if adapted else None
    model, tokenizer = load_for_inference(folder if adapted else source, quantization)
    require_template(tokenizer, f"The model {source}")
    kind = f"adapter on {adapter_base(folder)}" if adapted else "model"
    about = f"{source}: {kind}, {str(model.dtype).removeprefix('torch.')} on {model.device}"
    system = document.frontmatter.system_prompt if document else None
    return ChatModel(model, tokenizer, about, system, _prose(document, remarks), tuple(remarks))


def _check(folder: Path) -> None:
    """Raises DlmError for a folder without a model, and for AWQ weights that can't be computed with."""
    if not folder.is_dir() or is_adapter(folder):
        return
    if not (folder / "config.json").is_file():
        raise BaseModelError(
            "This folder has neither an adapter (adapter_config.json) nor a model (config.json).",
            hint="Give the output_dir of a finished run, or the folder of a merged or quantized model.",
            path=folder,
        )
    if (quantization_config(folder) or {}).get("quant_method") == "awq":
        try:
            require_extra("quant", "Computing with AWQ weights", "gptqmodel")
        except MissingExtraError as error:
            hint = f"Install it: {install_command('quant')}; or chat with the merged model that it was made from."
            raise MissingExtraError(error.message, hint, path=folder) from None


def _recorded_document(folder: Path, remarks: list[str]) -> Document | None:
    """The document that the weights in this folder were trained on, if it's still where it was."""
    if not folder.is_dir() or (trained := lineage.last(lineage.read(folder), "train")) is None:
        return None
    recorded = (trained.get("eval_spec") or {}).get("notes")
    if not isinstance(recorded, str):
        return None
    try:
        document = read(recorded)
    except DlmError as error:
        remarks.append(f"Its document can't be read: {error} If it moved, give --notes.")
        return None
    if document.frontmatter.dlm_id != trained["document"]:
        remarks.append(f"{recorded} is another document than the one that was trained. If that moved, give --notes.")
        return None
    return document


def _prose(document: Document | None, remarks: list[str]) -> tuple[str, ...]:
    """The document's prose with that of its sources, as the open book has it."""
    if document is None:
        return ()
    try:
        rows = parsed_rows(document, "prose", expand_sources=True)
    except DlmError as error:
        remarks.append(f"/notes is off: {error}")
        return ()
    return tuple(dict.fromkeys(rows["text"])) if rows is not None else ()
