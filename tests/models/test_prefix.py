"""A prefix cache doesn't change the generated text."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from dlm_trl.models.generate import generate, generate_batches
from dlm_trl.models.prefix import PrefixCache, common_prefix, families

FEW_SHOT = "Kneading is pressing and folding a dough until it is smooth.\n\n"
PROMPTS = [
    FEW_SHOT + end for end in ("What is yeast?", "A", "Who bakes the bread, and when does the baker do it?", "B")
]


def gpt2(tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2
    )
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_same_text_as_without_the_cache(model, tokenizer, positions: str, temperature: float) -> None:
    model = gpt2(tokenizer) if positions == "learned" else model
    tokens = tokenizer(PROMPTS)["input_ids"]
    prefix = PrefixCache.of(model, common_prefix(tokens))
    assert len(prefix.tokens) > 10
    plain = generate(model, tokenizer, PROMPTS, 24, temperature, stop=["q"], seed=[3, 4, 5, 6])
    for _ in range(2):  # it is reusable
        batches = generate_batches(
            model, tokenizer, PROMPTS, 24, temperature, stop=["q"], seed=[3, 4, 5, 6], prefix=prefix
        )
        assert {generated.row: generated.text for batch in batches for generated in batch} == dict(enumerate(plain))
    assert len(set(plain)) == len(plain)


def test_a_recurrent_model_has_no_prefix_cache(tokenizer) -> None:
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, state_size=4)
    assert PrefixCache.of(MambaForCausalLM(config), [5, 6, 7]) is None


def test_common_prefix_leaves_one_token_of_each_prompt() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2, 4]]) == [1]
    assert common_prefix([[1, 2], [2]]) == []


def test_a_batch_computes_its_common_prefix_once(model, tokenizer) -> None:
    seen: list[torch.Size] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    with hook:
        generate(model, tokenizer, PROMPTS, 1)
    tokens = tokenizer(PROMPTS)["input_ids"]
    shared = len(common_prefix(tokens))
    assert seen == [(1, shared), (len(PROMPTS), max(map(len, tokens)) - shared)]


def test_families_group_rows_about_one_text() -> None:
    texts = [[1, 2, 3, *range(1000 * k, 1000 * k + 100)] for k in range(1, 4)]
    rows = [[*texts[k % 3], 10 + k, 20 + k] for k in range(12)] + [[1, 2, 3, 3000], [7]]
    assert families(rows) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11], [12, 13]]
    assert families(rows[:3]) == [[0, 1, 2]]  # three different texts share only the chat template
    assert families([]) == []
