"""Faster training learns the same: packing, sorting by length, and logits at labelled positions only."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer, pack_dataset
from trl.trainer import utils
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.online.hooks import add_hook
from dlm_trl.train.loss import UncastInputs, scored_where_labelled

LENGTHS = (5, 31, 12, 60, 9, 40, 7, 22)


def rows() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    made = []
    for length in LENGTHS:
        ids = torch.randint(4, 300, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :], "length": length})
    return Dataset.from_list(made)


def summed_loss(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> float:
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum").item()


def test_packed_rows_dont_attend_to_each_other(random_base: Path) -> None:
    model = load_base(str(random_base)).eval()
    assert model.config._attn_implementation == "sdpa"
    alone = [rows().select([k]) for k in range(len(LENGTHS))]
    padded = DataCollatorForLanguageModeling(pad_token_id=3)
    expected = sum(summed_loss(model, padded(list(row))) for row in alone)
    packed = pack_dataset(rows().select_columns(["input_ids", "labels"]), 64, "bfd")
    assert len(packed) < len(LENGTHS)
    flat = DataCollatorForLanguageModeling(pad_token_id=3, padding_free=True)
    assert summed_loss(model, flat(list(packed))) == pytest.approx(expected, rel=1e-5)
    # Without boundaries between the rows the loss differs; otherwise this test couldn't fail.
    joined = flat(list(packed))
    joined = {"input_ids": joined["input_ids"], "labels": joined["labels"]}
    assert summed_loss(model, joined) != pytest.approx(expected, rel=1e-3)


def trained(random_base: Path, output_dir: Path, **settings: object) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of four steps over all rows, and the adapter's weights after them."""
    arguments = SFTConfig(
        str(output_dir),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_train_epochs=4,
        logging_steps=1,
        learning_rate=0.01,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        **settings,
    )
    trainer = SFTTrainer(
        load_base(str(random_base)),
        arguments,
        train_dataset=rows(),
        processing_class=load_tokenizer(str(random_base)),
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    trainer.train()
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return history, {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_the_recipes_settings_learn_the_same_as_the_defaults(random_base: Path, tmp_path: Path) -> None:
    plain, weights = trained(random_base, tmp_path)
    before = utils._use_triton
    with scored_where_labelled():
        assert utils._use_triton(torch.device("cpu"))
        quick, quick_weights = trained(
            random_base, tmp_path, train_sampling_strategy="batch_rebalance", gradient_checkpointing=False
        )
    assert utils._use_triton is before
    assert len(plain) == 4
    assert plain[-1] < plain[0]
    assert quick == pytest.approx(plain, rel=1e-4)
    assert all((weights[name] - quick_weights[name]).abs().max() < 1e-3 for name in weights)


@pytest.mark.parametrize("bf16", [True, False])
def test_inputs_that_arent_cast_give_the_same_model(random_base: Path, tmp_path: Path, bf16: bool) -> None:
    def train(uncast: bool) -> tuple[list[float], list[torch.Tensor], set[bool]]:
        torch.manual_seed(0)
        args = SFTConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1,
            bf16=bf16, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True}, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = SFTTrainer(
            load_base(str(random_base), "bfloat16" if bf16 else "float32"),
            args,
            train_dataset=rows(),
            processing_class=load_tokenizer(str(random_base)),
            peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        if uncast:
            add_hook(trainer, UncastInputs(trainer))
        layer = next(module for module in trainer.model.modules() if hasattr(module, "cast_input_dtype_enabled"))
        casts: set[bool] = set()
        layer.register_forward_pre_hook(lambda module, args: casts.add(module.cast_input_dtype_enabled))
        trainer.train()
        assert layer.cast_input_dtype_enabled, "as it was, for what runs without autocast"
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        return losses, [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad], casts

    plain, uncast = train(False), train(True)
    assert plain[2] == {True} and uncast[2] == {not bf16}
    assert plain[0] == uncast[0]
    assert all(torch.equal(one, other) for one, other in zip(plain[1], uncast[1], strict=True))
