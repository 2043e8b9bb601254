"""What one model does with fixed inputs, seen by a process of its own that reloads it from the disk.

    inputs = ModelInputs(chats=[[{"role": "user", "content": "What is kneading?"}]], texts=[[5, 8, 13]])
    before = compute_outputs(inputs, "runs/notes", scratch / "before")
    after = compute_outputs(inputs, "runs/merged", scratch / "after")
    after.logits()[0] - before.logits()[0]

The model is loaded by plain transformers (peft for an adapter, gptqmodel under it for AWQ), as its users will do.
"""

import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
from accelerate import PartialState
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.mcsb import McsbQuestion, measure_binding
from dlm_trl.evaluation.recall import RecallQuestion, answer_recall
from dlm_trl.export.adapter import CONFIG
from dlm_trl.export.rtn import round_to_nearest
from dlm_trl.export.run_module import run_module
from dlm_trl.export.sidecar_files import GENERATION, open_tokenizer, quantization_config, tokenizer_folder
from dlm_trl.models.batching import run_in_batches
from dlm_trl.models.chat import encode
from dlm_trl.models.generate import TOKEN_BUDGET
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.models.score import log_probs
from dlm_trl.notes import DlmError

Model = PreTrainedModel | PeftModel
Chat = list[dict[str, str]] | str  # messages, or the beginning of a text


@dataclass(frozen=True)
class ModelInputs:
    """The inputs. chats are answered greedily; of texts (token ids) the logits are kept, and `names` says what each is
    of; of scored pieces the log-probability is; questions and sets are what the run was examined with.
    """

    chats: Sequence[Chat] = ()
    new_tokens: int = 64
    texts: Sequence[Sequence[int]] = ()
    text_names: Sequence[str] = ()
    scored: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    questions: Mapping[str, Sequence[RecallQuestion]] = field(default_factory=dict)
    question_sets: Mapping[str, Sequence[McsbQuestion]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A greedy answer; ended: by a stop token of the model's generation_config, not by the number of tokens."""

    text: str
    ended: bool


@dataclass(frozen=True)
class ModelOutputs:
    """What the model did. nll: for each name, of each piece the summed negative log-probability in nats and how many
    tokens that is of. metrics: under the names of a run's report, the share and how many answers were right
    beyond guessing.
    """

    folder: Path
    answers: Sequence[Answer]
    nll: Mapping[str, Sequence[tuple[float, int]]]
    metrics: Mapping[str, tuple[float, float]]

    def logits(self) -> list[numpy.ndarray]:
        """Of each text, (tokens, vocabulary), float32, mapped from the disk."""
        return [numpy.load(file, mmap_mode="r") for file in sorted(self.folder.glob("logits-*.npy"))]


def compute_outputs(
    inputs: ModelInputs,
    model: str,
    scratch: Path,
    base: Path | None = None,
    quantization: str | None = None,
    round_to: int | None = None,
) -> ModelOutputs:
    """Have a new process load the model and go through the inputs; its results stay in `scratch`.

    model: a folder (model, adapter or AWQ). base: the folder of an adapter's base; quantization: how that is loaded.
    round_to: first round the weights to 4 bits in groups of so many. Raises DlmError (ExportError).
    """
    scratch.mkdir(parents=True)
    job = {"model": model, "base": base, "quantization": quantization, "round_to": round_to}
    (scratch / "job.pickle").write_bytes(pickle.dumps((inputs, job)))
    with Console(stderr=True).status(f"loading {model} and asking it …"):
        run_module("dlm_trl.export.model_outputs", str(scratch))
    found = json.loads((scratch / "found.json").read_text(encoding="utf-8"))
    answers = [Answer(**answer) for answer in found.pop("answers")]
    return ModelOutputs(folder=scratch, answers=answers, **found)


def main(scratch: Path) -> None:
    """The new process."""
    inputs, job = pickle.loads((scratch / "job.pickle").read_bytes())
    model, tokenizer = _load(**job)
    with torch.inference_mode():
        for number, text in enumerate(inputs.texts):
            logits = model(input_ids=torch.tensor([list(text)], device=model.device), use_cache=False).logits[0]
            numpy.save(scratch / f"logits-{number:05}.npy", logits.float().cpu().numpy())
    found = {
        "answers": _answers(model, tokenizer, inputs, Path(job["model"])),
        "nll": {name: _nll(model, tokenizer, pieces) for name, pieces in inputs.scored.items()},
        "metrics": _metrics(model, tokenizer, inputs),
    }
    (scratch / "found.json").write_text(json.dumps(found), encoding="utf-8")


def render(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[int]:
    """The token ids of a prompt."""
    if isinstance(chat, str):
        return tokenizer(chat, verbose=False)["input_ids"]
    return encode(tokenizer, chat)


def _load(
    model: str, base: Path | None, quantization: str | None, round_to: int | None
) -> tuple[Model, PreTrainedTokenizerBase]:
    """In float32, unlike everywhere else: arithmetic in bfloat16 moves the logits of SmolLM2-135M by 0.018 of their
    standard deviation, more than a wrong merge does, and one greedy answer in eight.
    """
    if base is not None:
        loaded = load_base(str(base), "float32", quantization)
        loaded = loaded if quantization else loaded.to(PartialState().device)
        tokenizer = open_tokenizer(tokenizer_folder(Path(model), base))
        return PeftModel.from_pretrained(loaded, model).eval(), tokenizer
    if quantization_config(Path(model)) is not None:
        dtype = "auto" if torch.cuda.is_available() else "float32"  # float16 is slow on a CPU
        return AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval(), AutoTokenizer.from_pretrained(model)
    loaded, tokenizer = load_base(model, "float32").to(PartialState().device).eval(), load_tokenizer(model)
    if round_to is not None:
        round_to_nearest(loaded, round_to)
    return loaded, tokenizer


def _answers(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    inputs: ModelInputs,
    folder: Path,
) -> list[dict[str, str | bool]]:
    """By generate() alone, in batches; with the generation_config beside an adapter, which peft does not load."""
    beside = (folder / CONFIG).is_file() and (folder / GENERATION).is_file()
    config = GenerationConfig.from_pretrained(folder) if beside else model.generation_config
    config = GenerationConfig.from_dict(config.to_dict() | {"max_new_tokens": inputs.new_tokens, "do_sample": False})
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    prompts = [render(tokenizer, chat) for chat in inputs.chats]

    def run(batch: list[int]) -> list[dict[str, str | bool]]:
        width = max(len(prompts[i]) for i in batch)
        ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]).to(ids.device)
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
        answers = []
        for row in written:  # behind an end there may be padding
            end = next((k for k, token in enumerate(row) if token in ends), None)
            text = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
            answers.append({"text": text, "ended": end is not None})
        return answers

    return run_in_batches(run, [len(prompt) + inputs.new_tokens for prompt in prompts], TOKEN_BUDGET)


def _nll(model: Model, tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
    scores = log_probs(model, tokenizer, [piece[:1] for piece in pieces], [piece[1:] for piece in pieces])
    return [(-score.total, score.tokens) for score in scores]


def _metrics(model: Model, tokenizer: PreTrainedTokenizerBase, inputs: ModelInputs) -> dict[str, tuple[float, float]]:
    metrics = {}
    for group, asked in inputs.questions.items():
        recall = answer_recall(model, tokenizer, asked)
        right = recall.right()
        metrics |= {f"{name}, {group}": (share, right[name]) for name, share in recall.shares().items()}
    for name, sets in inputs.question_sets.items():
        found = measure_binding(model, tokenizer, sets)
        metrics[f"mcsb/{name}/accuracy"] = (found.accuracy, (found.accuracy - found.chance) * found.questions)
    return metrics


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except DlmError as error:
        sys.exit(str(error))
