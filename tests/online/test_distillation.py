"""Context distillation in the stock SFTTrainer: the loss is the divergence from the base that reads the notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import SFTTrainer

from dlm_trl.models.load import load_base
from dlm_trl.models.tokenize import IGNORED
from dlm_trl.online import distillation
from dlm_trl.online.callback import OnlineSynthesisCallback, placeholder
from dlm_trl.online.distillation import Distillation
from tests.online.test_callback import FLAT, arguments, kept, logged, trainer, weights
from tests.tasks.letters import Letters, ToldLetters

ROWS = [  # prompt, answer, context; the last row has none
    ([20, 21, 22, 23], [30, 31], [40, 41, 42, 43, 44, 20, 21]),
    ([24, 25], [32, 33, 34], [45, 46, 24, 25]),
    ([26, 27, 28], [35], [47, 26]),
    ([29, 29, 29], [36, 37], []),
]
CONTEXTS = {(*prompt, *answer): context for prompt, answer, context in ROWS if context}


def dataset(times: int = 1) -> Dataset:
    rows = [{"input_ids": p + a, "labels": [IGNORED] * len(p) + a} for p, a, _ in ROWS]
    return Dataset.from_list(rows * times)


def plain_losses(model: Any) -> tuple[float, float, float]:
    """Cross-entropy of the row without a context, and cross-entropy and KL of the others: sums over tokens."""
    without = nll = kl = 0.0
    for prompt, answer, context in ROWS:
        count = len(answer)
        with torch.no_grad():
            mine = model(torch.tensor([prompt + answer])).logits[0, -count - 1 : -1].log_softmax(-1)
            if not context:
                without -= sum(mine[i, token].item() for i, token in enumerate(answer))
                continue
            nll -= sum(mine[i, token].item() for i, token in enumerate(answer))
            with model.disable_adapter():
                base = model(torch.tensor([context + answer])).logits[0, -count - 1 : -1].log_softmax(-1)
        kl += (base.exp() * (base - mine)).sum().item()
    return without, nll, kl


@pytest.mark.parametrize("settings", [{}, FLAT, {"gradient_accumulation_steps": 2}], ids=["padded", "flat", "parts"])
@pytest.mark.parametrize("objective", ["kl", "both"])
def test_the_loss_of_a_step(
    model, tokenizer, tmp_path: Path, objective: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "TOP", 10**6)  # all tokens, so that plain KL is exact
    batch = 4 // settings.get("gradient_accumulation_steps", 1)
    args = arguments(
        tmp_path,
        **{"gradient_accumulation_steps": 1, "max_steps": 1, "per_device_train_batch_size": batch, **settings},
    )
    run = trainer(model, tokenizer, args, dataset())
    without, nll, kl = plain_losses(run.model)
    Distillation(objective, CONTEXTS).attach(run)
    run.train()
    tokens = sum(len(answer) for _, answer, _ in ROWS)
    assert logged(run) == pytest.approx([(without + kl + (nll if objective == "both" else 0)) / tokens], abs=2e-4)
    assert kl > 0.1 < without
    distilled = sum(len(answer) for _, answer, context in ROWS if context)
    assert logged(run, "distillation/kl") == pytest.approx([kl / distilled], abs=1e-4)


def test_the_model_comes_to_answer_like_the_base_that_reads(model, tokenizer, tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=30, gradient_accumulation_steps=1, per_device_train_batch_size=4)
    run = trainer(model, tokenizer, args, dataset(8))
    Distillation("kl", CONTEXTS).attach(run)
    run.train()
    divergences = logged(run, "distillation/kl")
    assert divergences[-1] < 0.2 * divergences[0]


def test_distributions_are_computed_once_per_row(model, tokenizer, tmp_path: Path, monkeypatch) -> None:
    read: list[int] = []
    whole = distillation.last_hidden

    def counting(base: Any, rows: Any) -> Any:
        read.append(len(rows))
        return whole(base, rows)

    def train(folder: str) -> SFTTrainer:
        args = arguments(tmp_path / folder, max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2)
        run = trainer(load_copy(model), tokenizer, args, dataset(4))
        Distillation("kl", CONTEXTS).attach(run)
        run.train()
        return run

    monkeypatch.setattr(distillation, "last_hidden", counting)
    remembering = train("remembering")
    assert sum(read) == len(CONTEXTS)
    read.clear()
    monkeypatch.setattr(distillation, "REMEMBERED", 0)
    forgetting = train("forgetting")
    assert sum(read) > 2 * len(CONTEXTS)
    # Another batch is padded otherwise, so the last bits differ.
    assert logged(remembering) == pytest.approx(logged(forgetting), abs=1e-5)


def load_copy(model: PreTrainedModel) -> PreTrainedModel:
    twin = type(model)(model.config)
    twin.load_state_dict(model.state_dict())
    return twin


def test_an_online_run_equals_its_replay_from_a_dataset(random_base: Path, tokenizer, tmp_path: Path) -> None:
    args = arguments(tmp_path / "online")
    run = trainer(load_base(str(random_base), "float32"), tokenizer, args, placeholder(args))
    hook = Distillation("both").attach(run)
    OnlineSynthesisCallback(ToldLetters(), seed=5, distillation=hook).attach(run)
    run.train()
    rows = kept(tmp_path / "online")
    assert len(rows) == 18

    contexts = {}
    for row in rows:
        begin = row["labels"].count(IGNORED)
        told = tokenizer(ToldLetters.told(row["target"]))["input_ids"]
        contexts[tuple(row["input_ids"])] = told
        assert row["input_ids"][begin:] != told
    replayed = Dataset.from_list([{name: row[name] for name in ("input_ids", "labels")} for row in rows])
    args = arguments(tmp_path / "replay", train_sampling_strategy="sequential")
    replay = trainer(load_base(str(random_base), "float32"), tokenizer, args, replayed)
    Distillation("both", contexts).attach(replay)
    replay.train()
    assert logged(run) == logged(replay)
    assert logged(run, "distillation/kl") == logged(replay, "distillation/kl")
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in weights(replay).items())


def test_a_context_that_the_base_cannot_read_is_a_reject(model, tokenizer, tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=1)
    run = trainer(model, tokenizer, args, placeholder(args))
    hook = Distillation("kl").attach(run)
    OnlineSynthesisCallback(ToldLetters(notes=2000), seed=5, distillation=hook, attempts=1).attach(run)
    run.train()
    assert logged(run, "online/rejected/context too long") == [6]


def test_without_distillation_a_context_has_no_effect(random_base: Path, tokenizer, tmp_path: Path) -> None:
    losses = []
    for task in (ToldLetters(), Letters(choices=False)):
        args = arguments(tmp_path / type(task).__name__)
        run = trainer(load_base(str(random_base), "float32"), tokenizer, args, placeholder(args))
        OnlineSynthesisCallback(task, seed=5).attach(run)
        run.train()
        losses.append(logged(run))
    assert losses[0] == losses[1]
