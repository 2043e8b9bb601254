"""Compute one model's outputs for fixed inputs, in a fresh process that loads the model from disk.

    inputs = ModelInputs(chats=[[{"role": "user", "content": "What is kneading?"}]], texts=[[5, 8, 13]])
    before = compute_outputs(inputs, "runs/notes", scratch / "before")
    after = compute_outputs(inputs, "runs/merged", scratch / "after")
    after.logits()[0] - before.logits()[0]

The model is loaded with plain transformers, as its users will do (with peft for an adapter, gptqmodel for AWQ).
"""

import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dlm_trl.evaluation.mcsb import McsbQuestion, measure_binding
from dlm_trl.evaluation.recall import RecallQuestion, answer_recall
from dlm_trl.export.adapter import is_adapter
from dlm_trl.export.limits import TIED
from dlm_trl.export.rtn import round_to_nearest
from dlm_trl.export.run_module import run_module
from dlm_trl.export.sidecar_files import GENERATION, open_tokenizer, quantization_config, tokenizer_folder
from dlm_trl.models.batching import run_in_batches
from dlm_trl.models.chat import encode
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.generate import TOKEN_BUDGET
from dlm_trl.models.load import Quantization, load_base, load_tokenizer
from dlm_trl.models.score import log_probs
from dlm_trl.notes import DlmError
from dlm_trl.notes.terminal import console

Model: TypeAlias = "PreTrainedModel | PeftModel"
Chat: TypeAlias = list[dict[str, str]] | str  # messages, or the beginning of a text


@dataclass(frozen=True)
class ModelInputs:
    """What to feed to a model.

    chats: prompts to answer greedily, with up to new_tokens tokens. texts: token ids to compute logits for, each with a
    name in text_names. scored: token ids, by name, to compute log-probabilities of. questions and question_sets: what
    the run was evaluated with.
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
    """A greedy answer; ended: whether it stopped at a stop token rather than at the length limit."""

    text: str
    ended: bool


@dataclass(frozen=True)
class ModelOutputs:
    """What a model returned.

    nll: for each name and text of `scored`, the summed negative log-probability in nats, and the number of tokens.
    metrics: by the names in a run's report, the share, and the number of right answers beyond guessing. folder: holds
    the logits.
    """

    folder: Path
    answers: Sequence[Answer]
    nll: Mapping[str, Sequence[tuple[float, int]]]
    metrics: Mapping[str, tuple[float, float]]

    def logits(self) -> list[NDArray[numpy.float32]]:
        """For each text (tokens, vocabulary), memory-mapped."""
        return [numpy.load(file, mmap_mode="r") for file in sorted(self.folder.glob("logits-*.npy"))]


def compute_outputs(
    inputs: ModelInputs,
    model: str,
    scratch: Path,
    base: Path | None = None,
    quantization: Quantization | None = None,
    round_to: int | None = None,
) -> ModelOutputs:
    """Load the model in a new process and feed it the inputs; the results stay in `scratch`.

    model: the folder of a model or an adapter. base: the folder of an adapter's base; quantization: how to load that.
    round_to: first round the weights to 4 bits in groups of this size. Raises DlmError (ExportError).
    """
    scratch.mkdir(parents=True)
    job = {"model": model, "base": base, "quantization": quantization, "round_to": round_to}
    (scratch / "job.pickle").write_bytes(pickle.dumps((inputs, job)))
    with console(stderr=True).status(f"running {model} …"):
        run_module("dlm_trl.export.model_outputs", str(scratch))
    outputs = json.loads((scratch / "outputs.json").read_text(encoding="utf-8"))
    answers = [Answer(**answer) for answer in outputs.pop("answers")]
    return ModelOutputs(folder=scratch, answers=answers, **outputs)


def main(scratch: Path) -> None:
    """Run in the new process: load the model and write its outputs."""
    inputs, job = pickle.loads((scratch / "job.pickle").read_bytes())
    model, tokenizer = _load(**job)
    with torch.inference_mode():
        for number, text in enumerate(inputs.texts):
            logits = model(input_ids=torch.tensor([list(text)], device=model.device), use_cache=False).logits[0]
            numpy.save(scratch / f"logits-{number:05}.npy", logits.float().cpu().numpy())
    outputs = {
        "answers": _answers(model, tokenizer, inputs, Path(job["model"])),
        "nll": {name: _nll(model, tokenizer, texts) for name, texts in inputs.scored.items()},
        "metrics": _metrics(model, tokenizer, inputs),
    }
    (scratch / "outputs.json").write_text(json.dumps(outputs), encoding="utf-8")


def render(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[int]:
    """The token ids of a prompt."""
    if isinstance(chat, str):
        return encode_text(tokenizer, chat, add_special_tokens=True)
    return encode(tokenizer, chat)


def _load(
    model: str, base: Path | None, quantization: Quantization | None, round_to: int | None
) -> tuple[Model, PreTrainedTokenizerBase]:
    """Load in float32, unlike everywhere else.

    Computing in bfloat16 moves the logits of SmolLM2-135M by 0.018 of their standard deviation, more than a wrong merge
    does, and changes one greedy answer in eight.
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
    """Greedy answers from generate(), in batches. peft doesn't load an adapter's generation_config, so this does.

    Of tied tokens, the one with the lowest id is taken: otherwise two models whose logits differ by rounding errors
    would give different answers.
    """
    from_adapter = is_adapter(folder) and (folder / GENERATION).is_file()
    config = GenerationConfig.from_pretrained(folder) if from_adapter else model.generation_config
    config = GenerationConfig.from_dict(config.to_dict() | {"max_new_tokens": inputs.new_tokens, "do_sample": False})
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    prompts = [render(tokenizer, chat) for chat in inputs.chats]

    def run(batch: list[int]) -> list[dict[str, str | bool]]:
        width = max(len(prompts[i]) for i in batch)
        ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]).to(ids.device)
        written = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_lowest_of_tied]),
        )[:, width:].tolist()
        answers: list[dict[str, str | bool]] = []
        for row in written:  # after an end token there may be padding
            end = next((k for k, token in enumerate(row) if token in ends), None)
            text = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
            answers.append({"text": text, "ended": end is not None})
        return answers

    return run_in_batches(run, [len(prompt) + inputs.new_tokens for prompt in prompts], TOKEN_BUDGET)


def _lowest_of_tied(ids: Tensor, scores: Tensor) -> Tensor:
    """Raise the first of the tied best tokens above the others; scores (batch, vocabulary)."""
    best = scores.amax(1, keepdim=True)
    first = (scores >= best - TIED).int().argmax(1, keepdim=True)  # argmax takes the first
    return scores.scatter(1, first, best + 1)


def _nll(model: Model, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
    scores = log_probs(model, tokenizer, [ids[:1] for ids in texts], [ids[1:] for ids in texts])
    return [(-score.total, score.tokens) for score in scores]


def _metrics(model: Model, tokenizer: PreTrainedTokenizerBase, inputs: ModelInputs) -> dict[str, tuple[float, float]]:
    metrics: dict[str, tuple[float, float]] = {}
    for group, questions in inputs.questions.items():
        recall = answer_recall(model, tokenizer, questions)
        right = recall.right()
        metrics |= {f"{name}, {group}": (share, right[name]) for name, share in recall.shares().items()}
    for name, question_set in inputs.question_sets.items():
        binding = measure_binding(model, tokenizer, question_set)
        metrics[f"mcsb/{name}/accuracy"] = (binding.accuracy, (binding.accuracy - binding.chance) * binding.questions)
    return metrics


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except DlmError as error:
        sys.exit(str(error))
