"""Check a step of the export: `verify(before, after)` measures both models, each in a fresh process.

    result = verify(Path("runs/notes"), Path("runs/merged"))        # adapter → merged
    result = verify(Path("runs/merged"), Path("runs/awq"))          # merged → AWQ
    result.passed, print(result)

The numbers are also written to the later folder's lineage.json and model card.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.perplexity import general_text
from dlm_trl.export.adapter import is_adapter, open_adapter
from dlm_trl.export.checks import Check, check, table
from dlm_trl.export.grid import describe_grid
from dlm_trl.export.limits import SAME_PROMPTS, STOP_TOKENS
from dlm_trl.export.model_inputs import build_inputs, recorded_eval_spec
from dlm_trl.export.model_outputs import Chat, ModelOutputs, render
from dlm_trl.export.protocol import Comparison, ExportStep
from dlm_trl.export.record import read_lineage, write_lineage
from dlm_trl.export.sidecar_files import GENERATION, open_tokenizer, read_json, tokenizer_folder
from dlm_trl.export.steps import STEPS
from dlm_trl.models import lineage
from dlm_trl.models.chat import has_template
from dlm_trl.models.load import TENSORS
from dlm_trl.models.registry import ModelRef
from dlm_trl.models.weights import find_weights
from dlm_trl.notes.errors import VerifyError
from dlm_trl.notes.files import replace_file

SAMPLE_LENGTH = 20_000  # characters of general text that both tokenizers must encode alike
ON_GRID = (
    "This model comes from 4-bit weights already: {}. Its losses are measured against those weights, not against the "
    "weights as published. The limits stay the same: quantisation must still lose less than plain rounding."
)
EXPECTED_ANSWERS = "serve_check.json"  # questions and the model's answers, for checking a running server


@dataclass(frozen=True)
class VerifyResult:
    """The checks of a step. notes: what couldn't be measured, and what to know about the weights."""

    step: str
    checks: list[Check]
    notes: list[str]
    serve: str  # the command that serves the later model

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        return "\n".join([*self.notes, table(self.checks), f"serve it: {self.serve}"])


def verify(before: Path, after: Path, notes: Path | None = None, prompts: int = 16) -> VerifyResult:
    """Compare the models before and after a step, such as an adapter and the merged model.

    notes: the document to take questions from; by default the one the run was evaluated with. prompts: the number of
    questions whose greedy answers are compared word by word. Raises DlmError: VerifyError for folders that aren't two
    sides of a step, ExportError for a model that can't be loaded or run.
    """
    step = step_between(before, after)
    records = read_lineage(after)
    if not records or records[-1]["step"] != step.name:
        raise VerifyError(
            f"{lineage.FILE} doesn't end with the step {step.name}, so it isn't known how this model was made.",
            "Run the step again.",
            path=after,
        )
    find_weights(str(after.resolve())).shapes()  # raises for an incomplete file
    if step.lossy:
        for folder, record in zip((after, before), reversed(records), strict=False):
            _check_hashes(folder, record)
    base = _merged_base(before, records[-1]) if is_adapter(before) else None
    eval_spec, remarks = recorded_eval_spec(records, notes)
    if step.lossy and (grid := describe_grid(before, records)):
        remarks.append(ON_GRID.format(grid))
    tokenizers = [open_tokenizer(folder) for folder in (tokenizer_folder(before, base or before), after)]
    learned, _ = eval_spec.pairs(eval_spec.read_document())
    if records[0]["step"] == "train" and learned is not None and not has_template(tokenizers[0]):
        raise VerifyError(
            "The chat template the adapter was trained with is missing.",
            "Copy chat_template.jinja from the training output into this folder.",
            path=before,
        )
    try:
        inputs = build_inputs(eval_spec, records, tokenizers[0], prompts, notes)
    except TemplateError as error:
        raise VerifyError(f"The chat template refuses a question of the notes: {error}.", path=before) from error
    expected_ends = _end_tokens(before) or _end_tokens(base or before)
    checks = [_same_prompts(inputs.chats, *tokenizers), _stop_tokens(expected_ends, after, *tokenizers)]
    try:
        (after / EXPECTED_ANSWERS).unlink(missing_ok=True)
    except OSError as error:
        raise VerifyError(f"The numbers can't be written here: {error.strerror}.", path=after) from error
    if all(check.passed for check in checks):
        with tempfile.TemporaryDirectory() as scratch:
            compared, outputs = step.compare(Comparison(inputs, before, after, base, records, Path(scratch)))
        checks += compared
        _write_expected_answers(after, inputs.chats, inputs.new_tokens, outputs)
    serve = step.serve_command(after, str(after))
    records[-1] |= {"checks": [asdict(check) for check in checks], "serve": serve}
    write_lineage(after, records, str(after))
    return VerifyResult(step.name, checks, remarks, serve)


def step_between(before: Path, after: Path) -> ExportStep:
    """The step that leads from one folder to the other. Raises DlmError (VerifyError) if no step does."""
    for folder in (before, after):
        if not (is_adapter(folder) or (folder / "config.json").is_file() or _steps_to(folder)):
            raise VerifyError(
                "There is no model here: neither config.json nor adapter_config.json.",
                "Give the folders before and after a step.",
                path=folder,
            )
    sources = ["train"] if is_adapter(before) else [step.name for step in _steps_to(before)]
    step = next((step for step in _steps_to(after) if step.previous in sources), None)
    if step is None:
        raise VerifyError(
            "No step of the export leads from one of these folders to the other.",
            "Give an adapter and its merged model, or a merged model and its quantised one.",
            path=before,
        )
    return step


def _steps_to(folder: Path) -> list[ExportStep]:
    return [step for step in STEPS.values() if step.holds(folder)]


def _check_hashes(folder: Path, record: lineage.Step) -> None:
    for name, recorded in record.get("shards", {}).items():
        file = folder / name
        if not file.is_file() or lineage.file_hash(file) != recorded:
            raise VerifyError(
                f"This is not the file that the step {record['step']} wrote: changed, or from another run.",
                "Run the step again.",
                path=file,
            )


def _merged_base(adapter: Path, merged: lineage.Step) -> Path:
    """The folder of the base that the adapter was merged into.

    Raises DlmError, also for an adapter that is damaged or isn't the merged one.
    """
    open_adapter(adapter)
    if lineage.file_hash(adapter / TENSORS) != merged["adapter"].get(TENSORS):
        raise VerifyError(
            f"This is not the adapter that was merged: {TENSORS} differs.",
            "Give the right adapter, or merge this one.",
            path=adapter,
        )
    return find_weights(ModelRef.from_record(merged["base"]).name, merged.get("base_revision")).folder


def _same_prompts(chats: Sequence[Chat], before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> Check:
    """The share of equal token ids; 0 if template or vocabulary differ in parts that these prompts don't use."""
    if before.chat_template != after.chat_template or before.get_vocab() != after.get_vocab():
        return check(SAME_PROMPTS, 0.0)
    prompts = [*chats, general_text()[:SAMPLE_LENGTH]]
    return check(SAME_PROMPTS, sum(render(before, chat) == render(after, chat) for chat in prompts) / len(prompts))


def _stop_tokens(
    expected: Sequence[Any], folder: Path, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase
) -> Check:
    """Whether generation_config.json stops at the tokenizer's end token, and only at tokens that are expected, exist
    and aren't padding.
    """
    ends = _end_tokens(folder)
    padding_ends = after.pad_token_id in ends and after.pad_token_id != after.eos_token_id
    right = (
        after.eos_token_id == before.eos_token_id
        and after.eos_token_id in ends
        and not padding_ends
        and all(isinstance(i, int) and 0 <= i < len(after) for i in ends)
        and {*ends} <= {*expected, after.eos_token_id}
    )
    return check(STOP_TOKENS, float(right))


def _end_tokens(folder: Path) -> list[Any]:
    file = folder / GENERATION
    ends = read_json(file).get("eos_token_id") if file.is_file() else None
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _write_expected_answers(folder: Path, chats: Sequence[Chat], new_tokens: int, outputs: ModelOutputs) -> None:
    answers = [{"chat": chat, **asdict(answer)} for chat, answer in zip(chats, outputs.answers, strict=True)]
    text = json.dumps({"new_tokens": new_tokens, "answers": answers}, ensure_ascii=False, indent=2)
    replace_file(folder / EXPECTED_ANSWERS, f"{text}\n".encode())
