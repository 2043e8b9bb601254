"""The parts of a model card that training knows, from its records in lineage.json: data, authors, settings, numbers.

    print(adapter_card(records, "me/notes"))        # the card of an adapter
    parts = training_parts(records)                 # the same parts, for the card of a model made from it

The card quotes no notes. It names teachers, bases and tasks without the folders of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dlm_trl.evaluation.numbers import Measure
from dlm_trl.evaluation.report import markdown_table, measures_table
from dlm_trl.models.card_header import card_header
from dlm_trl.models.lineage import FILE, Step, lineage_error
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.escape import code, markdown, printable, redact, without_folders

PEOPLE = ("human", "prose")  # authors of rows that no model wrote
MEASURED = (
    "Measured with greedy answers in the chat template. F1 and exact match are computed as in SQuAD (case, punctuation "
    "and articles don't count), inventions are answers to questions that the notes don't answer, and the perplexity is "
    "that of a fixed general text."
)


def adapter_card(records: Sequence[Step], name: str, license: str | None = None) -> str:
    """The card of the adapter with these records. name: the folder or repository it is loaded from.

    license: an id of the Hub; by default the base's. Raises DlmError (LineageError) for damaged numbers.
    """
    record, base = records[-1], records[-1]["base"]
    method = "dpo" if "preferences" in record else "sft"
    source = record.get("base_source")
    on = f", on weights of {code(without_folders(base))} {markdown(source)}" if source else ""
    parts = [
        card_header(base, "peft", ["dlm", "trl", method, record["adapter"]["type"]], license),
        f"# {markdown(Path(name).name)}: an adapter for {markdown(ModelRef.from_record(base).hub_id or _shown(base))}",
        f"Trained by {_how(record)}{on}.",
        licence_part(base, license),
        *training_parts(records),
        "## Load it",
        python_block(
            [
                "from peft import PeftModel",
                "from transformers import AutoModelForCausalLM, AutoTokenizer",
                "",
                f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})",
                f"base = AutoModelForCausalLM.from_pretrained({json.dumps(_loadable(base))})",
                f"model = PeftModel.from_pretrained(base, {json.dumps(name)})",
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def training_parts(records: Sequence[Step]) -> list[str]:
    """What was trained on and who wrote it, the settings, and the numbers before and after: of each training."""
    trainings = [record for record in records if record["step"] == "train"]
    parts = []
    for number, record in enumerate(trainings, start=1):
        of = f" (training {number} of {len(trainings)})" if len(trainings) > 1 else ""
        measures = recorded_measures(record)
        numbers = f"{measures_table(measures)}\n\n{MEASURED}{_versions(record)}" if measures else _unmeasured(record)
        parts += [f"## Data{of}", *_data(record), f"## Training{of}", _settings(record)]
        parts += [f"## Before and after training{of}", numbers]
    return parts


def licence_part(base: str | None, license: str | None = None) -> str:
    """A sentence on the licence."""
    known = ModelRef.from_record(base).license if base else None
    if license and license != known:
        return f"Licence: {markdown(license)}; the terms of the base apply too{f' ({known})' if known else ''}."
    if known:
        return f"Licence: {known}, as its base."
    return "**Licence: fill it in.** The base's licence isn't known here; its terms apply."


def synthetic_rows(record: Step) -> dict[str, int]:
    """Training rows that a model wrote, by teacher."""
    if "synthetic" in record:
        return dict(record["synthetic"])
    return {
        author: count for author, count in record["rows"].items() if author not in PEOPLE
    }  # of preferences, or an older version


def recorded_measures(record: Step) -> list[Measure]:
    """The numbers before and after training, [] if nothing was measured; older versions recorded other ones.

    Raises DlmError (LineageError) if they are damaged.
    """
    recorded = record.get("measures")
    if not recorded or isinstance(recorded, dict):
        return []
    try:
        return TypeAdapter(list[Measure]).validate_python(recorded)
    except ValidationError as error:
        raise lineage_error(Path(FILE), f"measures: {error.errors()[0]['msg']}") from error


def python_block(lines: Sequence[str]) -> str:
    """A block of Python."""
    return "\n".join(["```python", *map(printable, lines), "```"])


def _how(record: Step) -> str:
    preferences = record.get("preferences")
    if preferences is None:
        return "supervised fine-tuning (TRL's SFTTrainer, loss on the answers)"
    loss = markdown(" + ".join(map(str, preferences["loss"])))
    reference = "the base" if preferences["reference"] == "base" else "the adapter that it began from"
    return (
        f"preference optimisation (TRL's DPOTrainer, loss {loss}, beta {markdown(preferences['beta'])}, reference: "
        f"{reference}), from an adapter trained before"
    )


def _data(record: Step) -> list[str]:
    document, written, synthetic = record.get("document"), record["rows"], synthetic_rows(record)
    parts = [_task(record)] if record.get("task") else []
    if document and written:
        people = {author: count for author, count in written.items() if author in PEOPLE}
        total = sum(people.values()) + sum(synthetic.values())
        share = f"{sum(synthetic.values()) / total:.0%} of them synthetic" if synthetic else "none of them synthetic"
        names = {"human": "people, as pairs", "prose": "people, as prose"}
        rows = [(names[author], "", f"{count:,}", f"{count / total:.0%}") for author, count in people.items()]
        rows += [(_shown(who), "synthetic", f"{n:,}", f"{n / total:.0%}") for who, n in synthetic.items()]
        parts.append(f"The document {code(document)}: {total:,} training rows, {share}.")
        parts.append(markdown_table(("written by", "", "rows", "share"), rows, numbers_from=2))
    elif document:
        parts.append(f"The document {code(document)}. No row was trained on as it is written in the document.")
    if document and (spec := record.get("eval_spec")):
        held_out = f"{spec['validation_fraction']:.0%} of the source groups ({markdown(spec['split_method'])})"
        parts.append(f"Held out, only used to measure: {held_out}.")
    return parts


def _task(record: Step) -> str:
    written: Mapping[str, Any] | None = record.get("written_online")
    name = code(Path(record["task"]).name)
    if written is None:
        before = record.get("written_before")
        where = f", written before the run, from the folder {code(before)}" if before else f" of the task {name}"
        return f"Synthetic rows{where}."
    who = (
        "the frozen base itself" if written["teacher"] == "base" else code(redact(without_folders(written["teacher"])))
    )
    return (
        f"Synthetic rows of the task {name}, written during the run by {who}: {written['share']:.0%} of all rows. Its "
        f"options, stage by stage: {code(json.dumps(written['stages']))}."
    )


def _settings(record: Step) -> str:
    adapter = record["adapter"]
    text = f"{markdown(adapter['type'])}, rank {adapter['rank']}"
    text += "".join(f", {name} {markdown(adapter[name])}" for name in ("alpha", "dropout") if name in adapter)
    text += f", quantisation {markdown(record.get('quantization') or 'none')}, seed {record['seed']}"
    settings = record.get("settings") or {}
    return (
        text
        + "".join(f", {markdown(name.replace('_', ' '))} {markdown(value)}" for name, value in settings.items())
        + "."
    )


def _unmeasured(record: Step) -> str:
    return "Measured by a version that didn't record all numbers." if record.get("measures") else "Not measured."


def _versions(record: Step) -> str:
    versions = record.get("versions") or {}
    return (
        f" Versions: {markdown(', '.join(f'{name} {value}' for name, value in versions.items()))}." if versions else ""
    )


def _shown(name: str) -> str:
    return redact(without_folders(name))


def _loadable(base: str) -> str:
    """What `from_pretrained` takes; a local base has to be filled in."""
    return ModelRef.from_record(base).hub_id or f"path/of/{_shown(base)}"
