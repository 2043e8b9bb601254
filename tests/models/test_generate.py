"""Generation: batches change nothing, nothing leaks in from the model, nothing is left changed."""

from collections.abc import Sequence

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.generate import generate

PROMPTS = ["What lifts", "A", "Who bakes the bread? The baker", "Kneading is pressing and folding a dough until"]


def by_hand(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], steps: int) -> list[int]:
    """Greedy decoding, one prompt, no cache, no padding: the definition. The new tokens."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return ids[len(prompt) :]


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_greedy_batches_say_what_single_prompts_say(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, budget: int
) -> None:
    tokens = [tokenizer(p)["input_ids"] for p in PROMPTS]
    new = [by_hand(model.eval(), tokenizer, t, 12) for t in tokens]
    expected = tokenizer.batch_decode(new, skip_special_tokens=True)
    assert generate(model, tokenizer, PROMPTS, 12, token_budget=budget) == expected
    assert generate(model, tokenizer, tokens, 12, token_budget=budget) == expected


def test_the_models_own_generation_config_does_not_leak_in(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    plain = generate(model, tokenizer, PROMPTS, 12)
    own = GenerationConfig(
        do_sample=True, temperature=5.0, top_k=3, num_beams=2, repetition_penalty=9.0, suppress_tokens=[5, 6], min_p=0.5
    )
    model.generation_config = own
    assert generate(model, tokenizer, PROMPTS, 12) == plain
    assert model.generation_config is own


def test_end_tokens_of_the_generation_config_end_a_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    new = by_hand(model.eval(), tokenizer, tokenizer("What lifts")["input_ids"], 12)
    model.generation_config.eos_token_id = [new[4]]
    expected = tokenizer.decode(new[: new.index(new[4])], skip_special_tokens=True)
    assert generate(model, tokenizer, ["What lifts"], 12) == [expected]


def test_a_stop_string_is_not_part_of_the_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    (text,) = generate(model, tokenizer, ["What lifts"], 16)
    stop = text[5:7]
    assert generate(model, tokenizer, ["What lifts"], 16, stop=[stop, "never said"]) == [text[: text.find(stop)]]


def test_sampling_repeats_with_its_seed_and_leaves_everything_as_it_was(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_dropout=0.5))
    adapted.train()
    adapted.base_model.model.model.norm.eval()  # a module frozen on purpose stays so
    modes = [m.training for m in adapted.modules()]
    state, side = torch.get_rng_state(), tokenizer.padding_side
    first = generate(adapted, tokenizer, PROMPTS, 12, temperature=1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert generate(adapted, tokenizer, PROMPTS, 12, temperature=1.0, seed=1) == first
    assert generate(adapted, tokenizer, PROMPTS, 12, temperature=1.0, seed=2) != first
    assert [m.training for m in adapted.modules()] == modes
    assert tokenizer.padding_side == side


def test_no_pad_token_is_no_obstacle(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    expected = generate(model, tokenizer, PROMPTS, 8)
    model.generation_config.pad_token_id = None
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    assert bare.pad_token is None
    assert generate(model, bare, PROMPTS, 8) == expected


def test_no_prompts_is_no_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert generate(model, tokenizer, [], 8) == []
