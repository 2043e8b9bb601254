"""Is the model behind a hop still the one before it? `verify(before, after)` measures both, each in a fresh process.

    found = verify(Path("runs/notes"), Path("runs/merged"))         # adapter → merged
    found = verify(Path("runs/merged"), Path("runs/awq"))           # merged → AWQ
    found.passed, print(table(found.checks))

The numbers are written into the later folder's lineage.json, and into its card.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from dlm_trl.export import card
from dlm_trl.export.checks import (
    Check,
    answer_checks,
    check,
    differences,
    logit_checks,
    metric_checks,
    perplexity_checks,
)
from dlm_trl.export.observe import Chat, Observation, Plan, is_quantized, observe, render
from dlm_trl.export.plan import find_exam, make_plan
from dlm_trl.models import lineage
from dlm_trl.notes import DlmError

SMOKE = "serve_check.json"  # questions and what the model says to them, for a running server


@dataclass(frozen=True)
class Verified:
    """What verify found. `notes`: what could not be asked, and why; `serve`: the line that serves the later model."""

    hop: str
    checks: list[Check]
    notes: list[str]
    serve: str

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def verify(before: Path, after: Path, notes: Path | None = None, prompts: int = 16, seed: int = 0) -> Verified:
    """Compare the models of two folders: an adapter and what it was merged to, or that and its AWQ.

    notes: the document whose questions are asked; by default the one that the run was examined with. prompts: how many
    questions are answered greedily and compared word by word. seed: of the pieces of text. Raises DlmError: VerifyError
    for folders that are no such hop, StepError for a model that cannot be loaded or run.
    """
    hop = hop_between(before, after)
    hops = lineage.read(after)
    exam, said = find_exam(hops, notes)
    (after / SMOKE).unlink(missing_ok=True)
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (before, after)]
    plan = make_plan(exam, hops, tokenizers[0], prompts)
    checks = [_same_prompts(plan.chats, *tokenizers), _stop_tokens(after, tokenizers[1])]
    if all(found.passed for found in checks):
        with tempfile.TemporaryDirectory() as scratch:
            compare = _merge_checks if hop == "merge" else _awq_checks
            found, last = compare(plan, before, after, hops, Path(scratch))
            checks += found
            smoke = [{"chat": chat, **asdict(answer)} for chat, answer in zip(plan.chats, last.answers, strict=True)]
        text = json.dumps({"new_tokens": plan.new_tokens, "answers": smoke}, ensure_ascii=False, indent=2)
        (after / SMOKE).write_text(f"{text}\n", encoding="utf-8")
    serve = card.serve_line(after, str(after))
    _write_down(after, hops, hop, checks, serve)
    return Verified(hop, checks, said, serve)


def hop_between(before: Path, after: Path) -> str:
    """ "merge" or "awq". Raises DlmError (VerifyError) for two folders that are neither."""
    for folder in (before, after):
        if not ((folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()):
            raise _error(folder, "There is no model here: neither config.json nor adapter_config.json.")
    if (before / "adapter_config.json").is_file() and not is_quantized(after):
        return "merge"
    if (before / "config.json").is_file() and not is_quantized(before) and is_quantized(after):
        return "awq"
    raise _error(
        before,
        "This is no hop: give an adapter and the model that it was merged to, or a 16-bit model and its AWQ.",
    )


def _same_prompts(chats: Sequence[Chat], before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> Check:
    if before.chat_template and not after.chat_template:
        return check("same prompts", 0.0)
    same = sum(render(before, chat) == render(after, chat) for chat in chats) / len(chats)
    return check("same prompts", same)


def _stop_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Check:
    """Whether generation_config.json ends at the tokenizer's end token, at tokens that exist, and not at padding."""
    if not (folder / "generation_config.json").is_file():
        return check("stop tokens", 0.0)
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    pad_is_end = tokenizer.pad_token_id == tokenizer.eos_token_id  # the only way that padding may be an end
    right = tokenizer.eos_token_id in ends and (pad_is_end or tokenizer.pad_token_id not in ends)
    return check("stop tokens", float(right and all(isinstance(i, int) and 0 <= i < len(tokenizer) for i in ends)))


def _merge_checks(
    plan: Plan, before: Path, after: Path, hops: Sequence[lineage.Hop], scratch: Path
) -> tuple[list[Check], Observation]:
    trained = lineage.last(hops, "train")
    adapter = observe(plan, str(before), scratch / "before")
    merged = observe(plan, str(after), scratch / "after")
    stored = str(AutoConfig.from_pretrained(after).dtype).removeprefix("torch.")
    checks = [
        *logit_checks(adapter, merged, stored),
        *answer_checks(adapter.answers, merged.answers, greedy=True),
        *metric_checks(adapter.metrics, merged.metrics),
    ]
    if trained and trained["quantization"]:
        as_trained = observe(plan, str(before), scratch / "quantized", quantization=trained["quantization"])
        name = f"logit difference to the base in {trained['quantization']}"
        told = zip(("mean", "largest"), differences(as_trained, merged), strict=False)
        checks += [Check(f"{name}, {which}", value) for which, value in told]
        shutil.rmtree(as_trained.folder)
    return checks, merged


def _awq_checks(
    plan: Plan, before: Path, after: Path, hops: Sequence[lineage.Hop], scratch: Path
) -> tuple[list[Check], Observation]:
    said = lineage.last(hops, "awq")
    merged = observe(plan, str(before), scratch / "before")
    rounded = observe(replace(plan, texts=()), str(before), scratch / "rounded", round_to=said["group_size"])
    quantized = observe(plan, str(after), scratch / "after")
    mean, largest, same = differences(merged, quantized)
    written, predicted = said["bytes"]["written"], said["bytes"]["predicted"]
    checks = [
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


def _write_down(after: Path, hops: list[lineage.Hop], hop: str, checks: Sequence[Check], serve: str) -> None:
    if lineage.last(hops, hop) is not hops[-1]:
        raise _error(after, f"The last step of its lineage.json is no {hop}.")
    hops[-1] |= {"checks": [asdict(found) for found in checks], "serve": serve}
    lineage.write(after, hops)
    card.write_card(after, hops, str(after))


def _error(folder: Path, message: str) -> DlmError:
    return DlmError(kind="VerifyError", message=message, path=folder)
