"""Hooks into the trainer: attaching them in any order trains the same model, and evaluation draws no random numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_trl.models.load import load_base
from dlm_trl.notes.errors import UsageError
from dlm_trl.online.callback import OnlineSynthesisCallback, placeholder
from dlm_trl.online.hooks import StepHook, add_hook, evaluate_without_a_trace
from dlm_trl.train.rehearsal import ROWS, Rehearsal
from tests.online.test_callback import FLAT, arguments, logged, trainer, weights
from tests.tasks.letters import Letters

TEXTS = [[5 + k, 6 + k, 7 + k] for k in range(ROWS)]


@pytest.mark.parametrize("settings", [{}, FLAT], ids=["padded", "padding_free"])
def test_callbacks_attached_in_any_order_train_the_same_model(
    random_base: Path, tokenizer, tmp_path: Path, settings: dict[str, Any]
) -> None:
    runs = []
    for order in ("task first", "rehearsal first"):
        args = arguments(tmp_path / order, **settings)
        run = trainer(load_base(str(random_base)), tokenizer, args, placeholder(args))
        attach = [
            lambda run=run: OnlineSynthesisCallback(Letters(), seed=0).attach(run),
            lambda run=run: Rehearsal(5.0, 0, TEXTS).attach(run),
        ]
        for attach_callback in attach if order == "task first" else attach[::-1]:
            attach_callback()
        run.train()
        runs.append(run)
    first, second = runs
    assert logged(first) == logged(second)
    assert logged(first, "rehearsal/kl") == logged(second, "rehearsal/kl")
    assert logged(first, "online/accuracy") == logged(second, "online/accuracy")
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())


def test_two_callbacks_cant_both_make_the_batches(model, tokenizer, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    run = trainer(model, tokenizer, args, placeholder(args))
    OnlineSynthesisCallback(Letters(), seed=0).attach(run)
    add_hook(run, StepHook())
    with pytest.raises(UsageError, match="can't both make the batches"):
        OnlineSynthesisCallback(Letters(), seed=1).attach(run)


def test_evaluation_reaches_no_hook_and_draws_no_random_numbers(model, tokenizer, tmp_path: Path) -> None:
    class Breaking(StepHook):
        def before_loss(self, inputs):
            raise AssertionError("evaluation reached a hook")

    args = arguments(tmp_path)
    rows = placeholder(args)
    run = trainer(model, tokenizer, args, rows)
    run.eval_dataset = rows.map(lambda row: {"labels": row["input_ids"]})
    evaluate_without_a_trace(run)
    add_hook(run, Breaking())
    before = torch.get_rng_state()
    assert run.evaluate()["eval_loss"] > 0
    assert torch.equal(before, torch.get_rng_state())
