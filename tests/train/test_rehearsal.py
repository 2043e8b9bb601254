"""Rehearsal: the divergence equals that of a plain forward pass, however rows are batched, and less is forgotten."""

import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from dlm_trl.models.divergence import NextTokens, Segment, at, hidden_states, token_kl
from dlm_trl.train.rehearsal import TOKENS, Rehearsal, as_wide, beside, pieces
from tests.tasks.tokenizers import gpt2_style

TEXTS = [[5, 6, 7, 8, 9], [11, 12], [13, 14, 15]]
PADDED = {
    "input_ids": torch.tensor([[20, 21, 22], [23, 24, 1]]),
    "labels": torch.tensor([[-100, 21, 22], [-100, 24, -100]]),
    "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
}
FREE = {
    "input_ids": torch.tensor([[20, 21, 22, 23, 24]]),
    "labels": torch.tensor([[-100, 21, 22, -100, 24]]),
    "position_ids": torch.tensor([[0, 1, 2, 0, 1]]),
}


def model() -> PeftModel:
    torch.manual_seed(0)
    tokenizer = gpt2_style()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.3, max_position_embeddings=128,
    )  # fmt: skip
    adapted = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return adapted


def plain_divergence(adapted: PeftModel) -> Tensor:
    parts = []
    for text in TEXTS:
        adapter = adapted(torch.tensor([text])).logits[0].log_softmax(-1)
        with torch.no_grad(), adapted.disable_adapter():
            base = adapted(torch.tensor([text])).logits[0].log_softmax(-1)
        parts.append((base.exp() * (base - adapter)).sum(-1))
    return torch.cat(parts).mean()


@pytest.mark.parametrize("rows", [PADDED, FREE], ids=["padded", "padding-free"])
def test_divergence_and_gradient_equal_those_of_a_plain_forward_pass(rows: dict[str, Tensor]) -> None:
    adapted = model()
    plain = plain_divergence(adapted)
    plain.backward()
    gradients = {n: p.grad.clone() for n, p in adapted.named_parameters() if p.grad is not None}
    adapted.zero_grad()
    with torch.no_grad(), adapted.disable_adapter():
        base = torch.cat([adapted(torch.tensor([text])).logits[0].log_softmax(-1) for text in TEXTS])
    inputs, spans = beside(rows, TEXTS)
    assert [inputs["input_ids"][s.line, s.start : s.end].tolist() for s in spans] == TEXTS
    assert (inputs["labels"] != -100).sum() == 3, "only the rows have a loss"
    with hidden_states(adapted) as hidden:
        adapted(**{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False)
    divergence = token_kl(adapted.get_base_model(), at(hidden.pop(), spans), NextTokens(base)).mean()
    divergence.backward()
    assert torch.isclose(divergence, plain, rtol=1e-4) and divergence > 0.01
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name


def test_rows_keep_their_positions() -> None:
    inputs, spans = beside(PADDED, TEXTS)
    assert torch.equal(inputs["input_ids"][:2, :3], PADDED["input_ids"])
    assert inputs["attention_mask"].sum(1).tolist() == [3, 2, 5, 2, 3]
    assert spans[1] == Segment(3, 0, 2)
    inputs, spans = beside(FREE, TEXTS)
    assert torch.equal(inputs["input_ids"][:, :5], FREE["input_ids"])
    assert inputs["position_ids"][0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 4, 0, 1, 0, 1, 2]
    assert spans[1] == Segment(0, 10, 12)


@given(st.lists(st.integers(1, TOKENS), min_size=8, max_size=8), st.integers(1, 600))
def test_texts_fill_the_width_of_the_batch(lengths: list[int], width: int) -> None:
    texts = [[10 * k + j for j in range(length)] for k, length in enumerate(lengths)]
    lines = as_wide(texts, width)
    assert [*chain(*lines)] == [*chain(*texts)]
    assert max(map(len, lines)) <= max(width, *lengths)
    longest = max(lengths)
    assert len(lines) == math.ceil(8 / max(1, width // longest)), "as many texts in each line as surely fit"
    if width < 2 * longest:
        assert lines == texts


def train(folder: Path, weight: float, **options: object) -> tuple[SFTTrainer, Rehearsal | None]:
    rows = [{"input_ids": [20 + k, 30 + k, 40 + k, 50 + k]} for k in range(8)]
    trainer = SFTTrainer(
        model().unload(),
        SFTConfig(
            output_dir=str(folder), max_steps=10, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            learning_rate=0.03, logging_steps=1, use_cpu=True, bf16=False, save_steps=5, disable_tqdm=True,
            lr_scheduler_type="constant", gradient_checkpointing=False, report_to=[],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=gpt2_style(),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    rehearsal = Rehearsal(weight, seed=0).attach(trainer) if weight else None
    trainer.train(**options)
    return trainer, rehearsal


def divergence_from_base(trainer: SFTTrainer) -> float:
    with torch.no_grad():
        return plain_divergence(trainer.model).item()


def test_less_is_forgotten_and_the_rows_are_still_learned(tmp_path: Path) -> None:
    without, _ = train(tmp_path / "without", 0)
    with_it, rehearsal = train(tmp_path / "with", 5)
    assert divergence_from_base(with_it) < divergence_from_base(without) / 2
    lines = [line for line in with_it.state.log_history if "loss" in line]
    assert lines[0]["rehearsal/kl"] < 1e-4, "at the first step the adapter changes nothing"
    assert lines[-1]["rehearsal/kl"] > 1e-3
    assert lines[-1]["loss"] - 5 * lines[-1]["rehearsal/kl"] < 0.8 * lines[0]["loss"]
    assert rehearsal and len({tuple(text) for text in rehearsal.texts}) > 200


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, _ = train(tmp_path, 2)
    resumed, _ = train(tmp_path, 2, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    losses = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 10


def test_a_file_is_split_into_pieces(tmp_path: Path) -> None:
    tokenizer, file = gpt2_style(), tmp_path / "general.txt"
    file.write_text("the cat sat on the mat and the dog ran off " * 60)
    texts = pieces(file, tokenizer)
    assert len(texts) >= 8 and {len(text) for text in texts} == {32}
    assert list(chain(*texts)) == tokenizer(file.read_text())["input_ids"][: 32 * len(texts)]
    file.write_text("the cat")
    for bad in (file, tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(ValueError, match=str(bad)):
            pieces(bad, tokenizer)
