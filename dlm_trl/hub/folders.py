"""What a push of a model folder sends: `model_upload(Path("runs/notes-awq"), "me/notes-awq")`.

Only the files that are needed to load the model go, by an explicit list: no reports, answers, checkpoints or optimizer
states, and not `serve_check.json`, which holds questions of the notes. `lineage.json` and `adapter_config.json` go
without the folders of this machine, and the card is written anew for the repository.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlm_trl.evaluation.training_card import adapter_card
from dlm_trl.export.adapter import CONFIG, is_adapter, open_adapter
from dlm_trl.export.model_card import model_card
from dlm_trl.export.record import read_lineage
from dlm_trl.export.sidecar_files import GENERATION, read_json
from dlm_trl.export.step_info import INFO
from dlm_trl.export.steps import STEPS
from dlm_trl.hub.upload import CARD, Upload
from dlm_trl.models import lineage
from dlm_trl.models.lineage import Step
from dlm_trl.models.load import TENSORS, TOKENIZER_FILES
from dlm_trl.models.registry import ModelRef
from dlm_trl.models.weights import find_weights
from dlm_trl.notes.errors import HubError
from dlm_trl.notes.escape import without_folders

ADAPTER = (CONFIG, TENSORS, GENERATION, *TOKENIZER_FILES)
MODEL = ("config.json", "model*.safetensors", "model.safetensors.index.json", GENERATION, *TOKENIZER_FILES)


def model_upload(folder: Path, repo_id: str, license: str | None = None, unverified: bool = False) -> Upload:
    """The files and the card of an adapter, a merged or a quantized model.

    license: an id of the Hub; by default the base's. unverified: also send a model that `verify` failed or that it
    never ran on. Raises DlmError: HubError for these and for a folder that this package didn't make, AdapterError and
    BaseModelError for damaged files, LineageError.
    """
    adapter = is_adapter(folder)
    step = next((step for step in STEPS.values() if step.holds(folder)), None)
    if not adapter and step is None:
        raise HubError(
            "There is no model here: neither adapter_config.json nor config.json.",
            "Give a run's output folder, a merged or quantised model, or a document.",
            path=folder,
        )
    records = read_lineage(folder)
    kind = "train" if adapter or step is None else step.name
    if not records or records[-1]["step"] != kind:
        raise HubError(
            f"{lineage.FILE} doesn't end with the step {kind}, so the card can't say how this was made.",
            "Upload a folder from elsewhere with `hf upload`, or run the step again.",
            path=folder,
        )
    if adapter:
        open_adapter(folder).check_finite()
        card, notes = adapter_card(records, repo_id, license), _base_notes(records[-1])
    else:
        find_weights(str(folder.resolve())).shapes()  # raises for an incomplete file
        notes = _check_verified(folder, records, unverified)
        card = model_card(folder, records, repo_id, license)
    patterns = ADAPTER if adapter else MODEL
    files: dict[str, Path | bytes] = {
        file.name: file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()
    }
    files[CARD] = card.encode()
    # The command that verify recorded names a folder; the card has the one for the repository.
    files[lineage.FILE] = _json({"steps": [{k: v for k, v in record.items() if k != "serve"} for record in records]})
    if adapter:
        files[CONFIG] = _json(_with_hub_base(read_json(folder / CONFIG), records[-1]))
    base = records[0].get("base")
    if not license and (base is None or ModelRef.from_record(base).license is None):
        notes = [*notes, "The base's licence isn't known here: give --license. The card says that it is missing."]
    return Upload(
        kind="adapter" if adapter else STEPS[kind].target,
        repo_type="model",
        files={name: files[name] for name in sorted(files)},
        replaces=("*.safetensors", "*.safetensors.index.json"),
        left_out=tuple(sorted(f"{f.name}/" if f.is_dir() else f.name for f in folder.iterdir() if f.name not in files)),
        notes=tuple(notes),
    )


def _check_verified(folder: Path, records: Sequence[Step], unverified: bool) -> list[str]:
    """A note if the model isn't verified; raises HubError unless that is allowed."""
    steps = [record for record in records if record["step"] in INFO]
    failed = [f"{s['step']}: {c['name']}" for s in steps for c in s.get("checks") or () if not c["passed"]]
    if failed:
        problem, hint = f"dlm-trl verify failed it ({', '.join(failed)})", "Make a better one"
    elif not records[-1].get("checks"):
        problem, hint = "dlm-trl verify never ran on it", f"Run dlm-trl verify BEFORE_DIR {folder}"
    else:
        return []
    if unverified:
        return [f"Not verified: {problem}. The card says so."]
    raise HubError(
        f"This model isn't verified: {problem}.", f"{hint}, or give --unverified to push it all the same.", path=folder
    )


def _base_notes(record: Step) -> list[str]:
    base = ModelRef.from_record(record["base"])
    if base.hub_id is not None:
        return []
    name = without_folders(base.name)
    return [
        f"The base {name} isn't on the Hub, so others can't load this adapter. Merge it, and push the merged model."
    ]


def _with_hub_base(settings: dict[str, Any], record: Step) -> dict[str, Any]:
    """The adapter's settings with a base that others can load: its id on the Hub, if it has one."""
    return settings | {"base_model_name_or_path": ModelRef.from_record(record["base"]).hub_id or record["base"]}


def _json(content: Any) -> bytes:
    return f"{json.dumps(_shareable(content), ensure_ascii=False, indent=2)}\n".encode()


def _shareable(value: Any) -> Any:
    """The value with every path reduced to its name."""
    if isinstance(value, dict):
        return {_shareable(key): _shareable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shareable(item) for item in value]
    return without_folders(value) if isinstance(value, str) else value
