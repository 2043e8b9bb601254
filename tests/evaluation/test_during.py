"""A stock SFTTrainer is measured while it trains, and trains as if nobody had looked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import GPT2Config, GPT2LMHeadModel
from trl import SFTConfig, SFTTrainer

from dlm_trl.evaluation.during import MeasureDuring
from dlm_trl.evaluation.mcsb import McsbQuestion
from dlm_trl.evaluation.suite import measure
from tests.tasks.tokenizers import gpt2_style

SETS = {"3:upper": [McsbQuestion("bridge", "it spans a river", ("bridge", "cheese", "desert"), "ABC")]}


def train(folder: Path, look: bool, **options: Any) -> SFTTrainer:
    tokenizer = gpt2_style()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=128, initializer_range=0.3
    )
    rows = [{"input_ids": torch.randint(5, 300, (12,)).tolist()} for _ in range(20)]
    trainer = SFTTrainer(
        GPT2LMHeadModel(config),
        SFTConfig(
            output_dir=str(folder), max_steps=5, per_device_train_batch_size=2, learning_rate=0.1, logging_steps=1,
            use_cpu=True, bf16=False, save_steps=2, eval_steps=2, disable_tqdm=True, gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, lora_dropout=0.2, target_modules=["c_attn"], task_type="CAUSAL_LM"),
    )  # fmt: skip
    if look:
        trainer.add_callback(MeasureDuring(trainer, lambda model: SETS))
    trainer.train(**options)
    return trainer


def seen(trainer: SFTTrainer) -> dict[int, dict[str, float]]:
    return {line["step"]: line for line in trainer.state.log_history if "eval_perplexity" in line}


def lines(trainer: SFTTrainer) -> list[dict[str, float]]:
    """What the trainer logs by itself."""
    return [line for line in trainer.state.log_history if "loss" in line]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> SFTTrainer:
    return train(tmp_path_factory.mktemp("watched"), look=True)


def test_before_during_and_after(watched: SFTTrainer) -> None:
    found = seen(watched)
    assert list(found) == [0, 2, 4, 5]
    assert found[0]["eval_mcsb/3:upper/chance"] == pytest.approx(1 / 3)
    assert len({line["eval_perplexity"] for line in found.values()}) == 4
    now = measure(watched.model, watched.processing_class, SETS, with_cloze=False).numbers()
    assert now == {name: found[5][f"eval_{name}"] for name in now}


def test_it_leaves_no_trace(watched: SFTTrainer, tmp_path: Path) -> None:
    alone = train(tmp_path, look=False)
    assert lines(watched) == lines(alone)
    assert [line["step"] for line in lines(alone)] == [1, 2, 3, 4, 5]
    assert {"num_tokens", "mean_token_accuracy"} <= lines(alone)[0].keys()


def test_a_resumed_run_goes_on(watched: SFTTrainer) -> None:
    folder = Path(watched.args.output_dir)
    again = train(folder, look=True, resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert seen(again) == seen(watched)
    assert [line["step"] for line in again.state.log_history if "eval_perplexity" in line] == [0, 2, 4, 5]
    assert [line["loss"] for line in lines(again)] == [line["loss"] for line in lines(watched)]
