"""Is the model behind a step still the one before it? `verify(before, after)` measures both, each in a fresh process.

    found = verify(Path("runs/notes"), Path("runs/merged"))         # adapter → merged
    found = verify(Path("runs/merged"), Path("runs/awq"))           # merged → AWQ
    found.passed, print(found)

The numbers are written into the later folder's lineage.json, and into its card.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.perplexity import general_text
from dlm_trl.export.adapter import CONFIG, TENSORS, open_adapter
from dlm_trl.export.checks import (
    Check,
    answer_checks,
    check,
    differences,
    divergence_checks,
    logit_checks,
    metric_checks,
    perplexity_checks,
    table,
)
from dlm_trl.export.grid import describe_grid
from dlm_trl.export.model_card import serve_line, write_card
from dlm_trl.export.model_inputs import build_inputs, recorded_eval_spec
from dlm_trl.export.model_outputs import Chat, ModelInputs, ModelOutputs, compute_outputs, is_quantized, render
from dlm_trl.export.sidecar_files import GENERATION, open_tokenizer, read_json, tokenizer_folder
from dlm_trl.models import lineage
from dlm_trl.models.chat import has_template
from dlm_trl.models.registry import document_name
from dlm_trl.models.weights import find_weights
from dlm_trl.notes.errors import VerifyError
from dlm_trl.notes.files import replace_file

SAMPLE = 20_000  # characters of general text, which the tokenizers have to read alike
GRID = (
    "This model comes from 4 bits already: {}. What AWQ and rounding lose is measured against that, not against the "
    "weights as they were published, and the limits are the same: AWQ loses less than rounding here too."
)
SMOKE = "serve_check.json"  # questions and what the model says to them, for a running server


@dataclass(frozen=True)
class Verified:
    """What verify found. `notes`: what could not be asked, and what to know about the weights; `serve`: the line that
    serves the later model.
    """

    step: str
    checks: list[Check]
    notes: list[str]
    serve: str

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        return "\n".join([*self.notes, table(self.checks), f"serve it: {self.serve}"])


def verify(before: Path, after: Path, notes: Path | None = None, prompts: int = 16) -> Verified:
    """Compare the models of two folders: an adapter and what it was merged to, or that and its AWQ.

    notes: the document whose questions are asked; by default the one that the run was examined with. prompts: how many
    questions are answered greedily and compared word by word. Raises DlmError: VerifyError for folders that are no such
    step, ExportError for a model that cannot be loaded or run.
    """
    step = step_between(before, after)
    steps = lineage.read(after)
    if not steps or steps[-1]["step"] != step:
        raise VerifyError(
            f"Its {lineage.FILE} does not end with the step {step}, so it is not known how it was made.", path=after
        )
    find_weights(str(after.resolve())).shapes()  # each file is whole
    if step == "awq":  # its numbers are statistics, which a small damage does not move far
        for folder, made in zip((after, before), reversed(steps), strict=False):
            _check_files(folder, made)
    base = _base(before, steps[-1]) if step == "merge" else before
    eval_spec, said = recorded_eval_spec(steps, notes)
    if step == "awq" and (grid := describe_grid(before, steps)):
        said.append(GRID.format(grid))
    tokenizers = [open_tokenizer(folder) for folder in (tokenizer_folder(before, base), after)]
    if steps[0]["step"] == "train" and not has_template(tokenizers[0]) and eval_spec.pairs()[0] is not None:
        raise VerifyError("The run learned answers by a chat template, and there is none here any more.", path=before)
    try:
        inputs = build_inputs(eval_spec, steps, tokenizers[0], prompts, notes)
    except TemplateError as error:
        raise VerifyError(f"Its chat template refuses a question of the notes: {error}.", path=before) from error
    checks = [_same_prompts(inputs.chats, *tokenizers), _stop_tokens(_ends(before) or _ends(base), after, *tokenizers)]
    try:
        (after / SMOKE).unlink(missing_ok=True)
    except OSError as error:
        raise VerifyError(f"The numbers cannot be written here: {error.strerror}.", path=after) from error
    if all(found.passed for found in checks):
        with tempfile.TemporaryDirectory() as scratch:
            found, last = (
                _merge_checks(inputs, before, base, after, steps, Path(scratch))
                if step == "merge"
                else _awq_checks(inputs, before, after, steps, Path(scratch))
            )
            checks += found
            smoke = [{"chat": chat, **asdict(answer)} for chat, answer in zip(inputs.chats, last.answers, strict=True)]
        text = json.dumps({"new_tokens": inputs.new_tokens, "answers": smoke}, ensure_ascii=False, indent=2)
        replace_file(after / SMOKE, f"{text}\n".encode())
    serve = serve_line(after, str(after))
    _write_down(after, steps, checks, serve)
    return Verified(step, checks, said, serve)


def step_between(before: Path, after: Path) -> str:
    """ "merge" or "awq". Raises DlmError (VerifyError) for two folders that are neither."""
    for folder in (before, after):
        if not ((folder / "config.json").is_file() or (folder / CONFIG).is_file()):
            raise VerifyError("There is no model here: neither config.json nor adapter_config.json.", path=folder)
    adapters = [(folder / CONFIG).is_file() for folder in (before, after)]
    if adapters == [True, False] and not is_quantized(after):
        return "merge"
    if adapters == [False, False] and not is_quantized(before) and is_quantized(after):
        return "awq"
    raise VerifyError(
        "This is no step: give an adapter and the model that it was merged to, or a 16-bit model and its AWQ.",
        path=before,
    )


def _check_files(folder: Path, step: lineage.Step) -> None:
    """The weights are those that the step wrote. Raises DlmError (VerifyError)."""
    for name, said in step.get("shards", {}).items():
        file = folder / name
        if not file.is_file() or lineage.file_hash(file) != said:
            raise VerifyError(
                f"This is not the file that the step {step['step']} wrote: changed, or of another run.", path=file
            )


def _base(adapter: Path, merged: lineage.Step) -> Path:
    """The folder of the base that the adapter was merged into. Raises DlmError, also for an adapter that is not whole
    or not the one of the merge.
    """
    open_adapter(adapter)
    if lineage.file_hash(adapter / TENSORS) != merged["adapter"].get(TENSORS):
        raise VerifyError(f"This is not the adapter that was merged: {TENSORS} is another.", path=adapter)
    return find_weights(document_name(merged["base"]), merged.get("base_revision")).folder


def _same_prompts(chats: Sequence[Chat], before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> Check:
    """Of the prompts asked, where the template and the vocabulary, of which they need only a part, are the same."""
    if before.chat_template != after.chat_template or before.get_vocab() != after.get_vocab():
        return check("same prompts", 0.0)
    prompts = [*chats, general_text()[:SAMPLE]]
    return check("same prompts", sum(render(before, chat) == render(after, chat) for chat in prompts) / len(prompts))


def _stop_tokens(
    expected: Sequence[Any], folder: Path, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase
) -> Check:
    """Whether generation_config.json ends at the tokenizer's end token, at none that was not expected or that does not
    exist, and not at padding.
    """
    ends = _ends(folder)
    pad_is_end = after.pad_token_id == after.eos_token_id  # the only way that padding may be an end
    right = after.eos_token_id == before.eos_token_id and after.eos_token_id in ends
    right = right and (pad_is_end or after.pad_token_id not in ends) and {*ends} <= {*expected, after.eos_token_id}
    return check("stop tokens", float(right and all(isinstance(i, int) and 0 <= i < len(after) for i in ends)))


def _ends(folder: Path) -> list[Any]:
    file = folder / GENERATION
    ends = read_json(file).get("eos_token_id") if file.is_file() else None
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _merge_checks(
    inputs: ModelInputs, before: Path, base: Path, after: Path, steps: Sequence[lineage.Step], scratch: Path
) -> tuple[list[Check], ModelOutputs]:
    trained = lineage.last(steps, "train")
    adapter = compute_outputs(inputs, str(before), scratch / "before", base)
    merged = compute_outputs(inputs, str(after), scratch / "after")
    checks = [
        *logit_checks(adapter, merged, steps[-1]["dtype"]),
        *answer_checks(adapter.answers, merged.answers, greedy=True),
        *metric_checks(adapter.metrics, merged.metrics),
    ]
    if trained and (quantization := trained.get("quantization")):
        as_trained = compute_outputs(inputs, str(before), scratch / "quantized", base, quantization)
        name = f"logit difference to the base in {quantization}"
        told = zip(("mean", "largest"), differences(as_trained, merged), strict=False)
        checks += [Check(f"{name}, {which}", value) for which, value in told]
        shutil.rmtree(as_trained.folder)
    return checks, merged


def _awq_checks(
    inputs: ModelInputs, before: Path, after: Path, steps: Sequence[lineage.Step], scratch: Path
) -> tuple[list[Check], ModelOutputs]:
    said = lineage.last(steps, "awq")
    merged = compute_outputs(inputs, str(before), scratch / "before")
    numbers = replace(inputs, chats=(), questions={}, question_sets={})
    rounded = compute_outputs(numbers, str(before), scratch / "rounded", round_to=said["group_size"])
    quantized = compute_outputs(inputs, str(after), scratch / "after")
    mean, largest, same = differences(merged, quantized)
    written, predicted = said["bytes"]["written"], said["bytes"]["predicted"]
    checks = [
        *divergence_checks(inputs.text_names, merged, rounded, quantized),
        *perplexity_checks(merged.nll, rounded.nll, quantized.nll),
        *metric_checks(merged.metrics, quantized.metrics),
        *answer_checks(merged.answers, quantized.answers, greedy=False),
        Check("logit difference, mean", mean),
        Check("logit difference, largest", largest),
        Check("same most likely token", same),
        check("smoothed groups of layers", said["smoothed"]),
        check("bytes, written to predicted", written / predicted, before=predicted, after=written),
        check("bytes, predicted to written", predicted / written),
    ]
    return checks, quantized


def _write_down(after: Path, steps: list[lineage.Step], checks: Sequence[Check], serve: str) -> None:
    steps[-1] |= {"checks": [asdict(found) for found in checks], "serve": serve}
    lineage.write(after, steps)
    write_card(after, steps, str(after))
