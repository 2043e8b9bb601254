"""Fresh rows inside the stock SFTTrainer: the loss equals that of the same rows as a dataset, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, TrainerCallback
from trl import SFTConfig, SFTTrainer

from dlm_trl.models.load import load_base
from dlm_trl.models.score import log_probs
from dlm_trl.notes import DlmError
from dlm_trl.online.callback import OnlineSynthesisCallback, _places, placeholder
from dlm_trl.online.curriculum import Curriculum
from dlm_trl.tasks.protocol import Task
from dlm_trl.teachers.local import LocalTeacher
from dlm_trl.teachers.protocol import Request
from tests.tasks.letters import LABELS, CheckedLetters, Letters, SaidLetters

FLAT = {"padding_free": True, "max_length": None}  # the rows of a batch concatenated


def arguments(folder: Path, **settings: Any) -> SFTConfig:
    settings = {
        "max_steps": 3,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        **settings,
    }
    return SFTConfig(output_dir=str(folder), **settings)


def trainer(model: PreTrainedModel, tokenizer, args: SFTConfig, dataset: Dataset, dropout: float = 0.0) -> SFTTrainer:
    torch.manual_seed(0)
    target = "all-linear" if model.config.model_type == "llama" else ["c_attn", "c_fc"]
    lora = LoraConfig(target_modules=target, lora_dropout=dropout, task_type="CAUSAL_LM", init_lora_weights=False)
    return SFTTrainer(model, args, train_dataset=dataset, processing_class=tokenizer, peft_config=lora)


def online(
    model: PreTrainedModel, tokenizer, args: SFTConfig, task: Task | Curriculum, dropout: float = 0.0, **settings: Any
) -> SFTTrainer:
    dataset = settings.pop("dataset", None) or placeholder(args)
    run = trainer(model, tokenizer, args, dataset, dropout)
    OnlineSynthesisCallback(task, seed=5, **settings).attach(run)
    return run


def logged(run: SFTTrainer, name: str = "loss") -> list[float]:
    return [float(line[name]) for line in run.state.log_history if "loss" in line]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "online_rows-0.jsonl").read_text("utf-8").splitlines()]


def kept(folder: Path) -> list[dict[str, Any]]:
    return [row for row in lines(folder) if row["input_ids"]]


def weights(run: SFTTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}


def gpt2(vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": vocabulary, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # a replay would draw other random numbers
    return GPT2LMHeadModel(GPT2Config(**sizes, **no_dropout, initializer_range=0.2))


@pytest.mark.parametrize(
    ("kind", "settings", "replayed"),
    [
        ("llama", {}, {}),
        ("llama", {"gradient_checkpointing": False, **FLAT}, FLAT),
        ("llama", {"packing": True}, FLAT),
        ("gpt2", {}, {}),
    ],
    ids=["llama", "padding_free", "packing", "gpt2"],
)
def test_an_online_run_equals_its_replay_from_a_dataset(
    random_base: Path, tokenizer, tmp_path: Path, kind: str, settings: dict[str, Any], replayed: dict[str, Any]
) -> None:
    def base() -> PreTrainedModel:
        return gpt2(len(tokenizer)) if kind == "gpt2" else load_base(str(random_base))

    run = online(base(), tokenizer, arguments(tmp_path / "online", **settings), Letters(choices=False))
    start = weights(run)
    run.train()
    rows = kept(tmp_path / "online")
    assert sorted((row["step"], row["index"]) for row in rows) == [(step, i) for step in range(3) for i in range(6)]
    lengths = [(row["step"], len(row["input_ids"])) for row in rows]
    assert lengths == sorted(lengths)  # in training order: sorted by length
    assert len({len(row["input_ids"]) for row in rows}) > 3
    assert len({sum(label != -100 for label in row["labels"]) for row in rows}) == 1 < len(rows[0]["labels"])

    dataset = Dataset.from_list([{name: row[name] for name in ("input_ids", "labels")} for row in rows])
    args = arguments(tmp_path / "replay", train_sampling_strategy="sequential", **replayed)
    replay = trainer(base(), tokenizer, args, dataset)
    assert all(torch.equal(start[name], tensor) for name, tensor in weights(replay).items())
    replay.train()
    assert logged(run) == logged(replay)
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(replay).items())
    assert not all(torch.equal(start[name], tensor) for name, tensor in weights(replay).items())


@pytest.mark.parametrize(
    "task", [CheckedLetters(), SaidLetters(), Letters(rejecting="half")], ids=lambda t: type(t).__name__
)
def test_rejected_rows_are_counted_and_redrawn(model, tokenizer, tmp_path: Path, task: Letters) -> None:
    run = online(model, tokenizer, arguments(tmp_path, logging_steps=3), task, attempts=2)
    run.train()
    rejected = sum(row["rejected"] is not None for row in lines(tmp_path))
    (line,) = [line for line in run.state.log_history if "loss" in line]
    counted = sum(count for name, count in line.items() if name.startswith("online/rejected/"))
    assert counted == pytest.approx(rejected / 3)
    assert line["online/rows"] == pytest.approx(len(kept(tmp_path)) / 3)
    assert (rejected > 0) == (type(task) is not SaidLetters)
    assert 0 < line["online/generation_share"] < 1
    assert line["online/new_tokens"] > 6


@pytest.mark.parametrize("choices", [True, False])
@pytest.mark.parametrize("padding_free", [True, False])
def test_accuracy_is_that_of_the_trained_model(
    model, tokenizer, tmp_path: Path, choices: bool, padding_free: bool
) -> None:
    scored = []

    class Watched(Letters):
        def metrics(self, examples, predictions) -> dict[str, float]:
            scored.extend(zip(examples, predictions, strict=True))
            return super().metrics(examples, predictions)

    args = arguments(tmp_path, learning_rate=0.0, **(FLAT if padding_free else {}))
    run = online(model, tokenizer, args, Watched(choices=choices))
    run.train()
    assert len(scored) == 18
    for example, prediction in scored:
        if choices:
            scores = log_probs(run.model, tokenizer, [example.prompt] * 5, LABELS)
            assert prediction == LABELS[max(range(5), key=lambda k: scores[k].total)]
        else:
            ids = torch.tensor([tokenizer(example.prompt)["input_ids"] + tokenizer(example.target)["input_ids"]])
            length = len(tokenizer(example.target)["input_ids"])
            best = run.model.eval()(ids).logits[0, -length - 1 : -1].argmax(-1)
            assert prediction == tokenizer.decode(best, skip_special_tokens=True)
    if choices:
        accuracy = sum(e.target == p for e, p in scored) / len(scored)
        assert sum(logged(run, "online/accuracy")) / 3 == pytest.approx(accuracy)
        assert logged(run, "online/chance") == [pytest.approx(0.2)] * 3


def test_the_loss_over_labels_only(model, tokenizer, tmp_path: Path) -> None:
    run = online(model, tokenizer, arguments(tmp_path, learning_rate=0.0), Letters(loss="labels"))
    run.train()
    for step, loss in enumerate(logged(run)):
        rows = [row for row in kept(tmp_path) if row["step"] == step]
        total = 0.0
        for row in rows:
            scores = log_probs(run.model, tokenizer, [row["prompt"]] * 5, LABELS)
            logits = torch.tensor([score.total for score in scores])
            total -= logits.log_softmax(0)[LABELS.index(row["target"])].item()
        assert loss == pytest.approx(total / len(rows), abs=1e-4)
    # Gradients flow through it.
    learned = online(without_adapter(run), tokenizer, arguments(tmp_path, max_steps=1), Letters(loss="labels"))
    learned.train()
    assert logged(learned, "grad_norm")[0] > 0


def without_adapter(run: SFTTrainer) -> PreTrainedModel:
    return run.model.unload()


def documents(count: int) -> Dataset:
    rows = [[300 + k % 40, 1, 2, 3][: 2 + k % 3] for k in range(count)]
    return Dataset.from_list([{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in rows])


@pytest.mark.parametrize("fraction", [0.5, 0.3])
@pytest.mark.parametrize("padding_free", [True, False])
def test_synthetic_rows_mixed_with_a_documents(
    model, tokenizer, tmp_path: Path, fraction: float, padding_free: bool
) -> None:
    args = arguments(tmp_path, max_steps=5, **(FLAT if padding_free else {}))
    run = online(model, tokenizer, args, Letters(), dataset=documents(60), synthetic_fraction=fraction)
    trained: list[list[int]] = []
    compute_loss = run.compute_loss

    def watched(model, inputs, *args, **kwargs):
        if padding_free:
            starts = (inputs["position_ids"][0] == 0).nonzero().flatten().tolist()
            ends = [*starts[1:], inputs["input_ids"].shape[1]]
            trained.extend(inputs["input_ids"][0, a:b].tolist() for a, b in zip(starts, ends, strict=True))
        else:
            pairs = zip(inputs["input_ids"], inputs["attention_mask"].sum(1).tolist(), strict=True)
            trained.extend(ids[:length].tolist() for ids, length in pairs)
        return compute_loss(model, inputs, *args, **kwargs)

    run.compute_loss = watched
    run.train()
    rows = {tuple(row["input_ids"]) for row in kept(tmp_path)}
    own = {tuple(row) for row in documents(60)["input_ids"]}
    synthetic = [tuple(ids) in rows for ids in trained]
    assert len(trained) == 30
    assert all(tuple(ids) in own for ids, is_synthetic in zip(trained, synthetic, strict=True) if not is_synthetic)
    for step in range(5):
        assert abs(sum(synthetic[6 * step : 6 * step + 6]) - 6 * fraction) < 1


def test_batches_of_different_sizes_share_a_step(model, tokenizer, tmp_path: Path) -> None:
    """The recipe's sampler puts long rows into small batches."""
    lengths = [3 if k % 4 else 60 for k in range(96)]
    rows = [{"input_ids": [300 + k % 40] * n, "labels": [300 + k % 40] * n} for k, n in enumerate(lengths)]
    args = arguments(tmp_path, per_device_train_batch_size=4, train_sampling_strategy="batch_rebalance", max_steps=6)
    run = online(model, tokenizer, args, Letters(), dataset=Dataset.from_list(rows), synthetic_fraction=0.5)
    sizes: list[int] = []
    compute_loss = run.compute_loss

    def watched(model, inputs, *args, **kwargs):
        sizes.append(len(inputs["input_ids"]))
        return compute_loss(model, inputs, *args, **kwargs)

    run.compute_loss = watched
    run.train()
    assert len(set(sizes)) > 1
    for step in range(6):
        indices = [row["index"] for row in kept(tmp_path) if row["step"] == step]
        assert len(indices) == len(set(indices)) == 4 and max(indices) < 8


def test_the_rows_of_a_step_are_numbered_across_processes() -> None:
    assert _places([[3, 1], [2, 4]], 0) == [[0, 1, 2], [5]]
    assert _places([[3, 1], [2, 4]], 1) == [[3, 4], [6, 7, 8, 9]]
    assert _places([[3, 1], [2]], 0) == [[0, 1, 2], [5]]


def test_a_place_without_a_synthetic_row_keeps_its_document_row(model, tokenizer, tmp_path: Path) -> None:
    task = Letters(rejecting="all")
    args = arguments(tmp_path / "a", train_sampling_strategy="sequential")
    run = online(model, tokenizer, args, task, dataset=documents(18), synthetic_fraction=0.5, attempts=1)
    run.train()
    plain = trainer(
        without_adapter(run), tokenizer, arguments(tmp_path / "b", train_sampling_strategy="sequential"), documents(18)
    )
    plain.train()
    assert logged(run) == logged(plain)
    assert logged(run, "online/rows") == [0, 0, 0]


def test_a_step_without_rows_changes_nothing(model, tokenizer, tmp_path: Path) -> None:
    run = online(model, tokenizer, arguments(tmp_path), Letters(rejecting="all"), attempts=1)
    start = weights(run)
    run.train()
    assert logged(run) == [0, 0, 0]
    assert all(torch.equal(start[name], tensor) for name, tensor in weights(run).items())


def test_a_resumed_run_equals_the_uninterrupted_one(random_base: Path, tokenizer, tmp_path: Path) -> None:
    def start(steps: int, **settings: Any) -> SFTTrainer:
        # Its accuracy crosses the threshold several times, so the window decides when the second stage starts.
        easy = Letters(rejecting="half")
        tasks = Curriculum([easy, SaidLetters(), CheckedLetters()], threshold=0.05, window=3)
        args = arguments(tmp_path, max_steps=8, save_strategy="steps", save_steps=4, warmup_steps=2, **settings)
        run = online(load_base(str(random_base)), tokenizer, args, tasks, dropout=0.3)
        if steps < 8:
            run.add_callback(StopAfter(steps))
        return run

    whole = start(8)
    whole.train()
    rows = lines(tmp_path)
    stages = logged(whole, "online/stage")
    assert stages[0] == 1 < stages[-1]

    start(6).train()  # stops two steps after its last checkpoint; their rows are written again
    assert len(lines(tmp_path)) == sum(row["step"] < 6 for row in rows)
    resumed = start(8, restore_callback_states_from_checkpoint=True)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert logged(resumed) == logged(whole)
    assert logged(resumed, "online/accuracy") == logged(whole, "online/accuracy")
    assert logged(resumed, "online/stage") == stages
    assert lines(tmp_path) == rows
    assert all(torch.equal(weights(whole)[name], tensor) for name, tensor in weights(resumed).items())


class StopAfter(TrainerCallback):
    """Ends the run after this many steps, as if it were killed."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop = state.global_step == self.steps


class Recording(LocalTeacher):
    """Records the requests it gets."""

    batches: list[list[Request]]

    def generate(self, requests):
        self.batches.append(list(requests))
        return super().generate(requests)


def test_requests_are_sent_ahead_and_never_twice(random_base: Path, model, tokenizer, tmp_path: Path) -> None:
    teacher = Recording(load_base(str(random_base)), tokenizer, "hf:random", "0", None)
    teacher.batches = []
    stages = Curriculum([Letters(), Letters(temperature=2.0)], threshold=0.001, window=1)
    run = online(model, tokenizer, arguments(tmp_path, max_steps=6), stages, teacher=teacher)
    run.train()
    assert len(kept(tmp_path)) == 36
    changes = len({*logged(run, "online/stage")}) - 1
    assert len(teacher.batches) == 6 + changes  # requests sent ahead for the previous stage are dropped
    keys = [request.key for requests in teacher.batches for request in requests]
    assert len(set(keys)) == 36
    written = {row["generated"] for row in kept(tmp_path)}
    assert all("q" not in text and text == text.strip() for text in written)
    assert len(written) > 20


def test_unusable_arguments_and_models_are_refused(model, tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DlmError, match="never ends by itself"):
        placeholder(arguments(tmp_path, max_steps=-1))
    for fraction in (0.0, 1.5):
        with pytest.raises(DlmError, match="synthetic_fraction"):
            OnlineSynthesisCallback(Letters(), seed=0, synthetic_fraction=fraction)
    args = arguments(tmp_path)
    plain = SFTTrainer(model, args, train_dataset=placeholder(args), processing_class=tokenizer)
    with pytest.raises(DlmError, match="no adapter"):
        OnlineSynthesisCallback(Letters(), seed=0).attach(plain)
    biased = get_peft_model(model, LoraConfig(target_modules="all-linear", bias="all"))
    trained = SFTTrainer(biased, args, train_dataset=placeholder(args), processing_class=tokenizer)
    with pytest.raises(DlmError, match="bias"):
        OnlineSynthesisCallback(Letters(), seed=0).attach(trained)
