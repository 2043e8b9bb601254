"""The keys and values of a shared beginning, computed once, change nothing of what is written."""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from dlm_trl.models.generate import generate, generate_batches
from dlm_trl.models.prefix import PrefixCache, common_prefix

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


def llama_of_shared_heads(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}  # two heads read the same keys
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, initializer_range=0.2))


@pytest.mark.parametrize("kind", ["rotary", "learned positions", "shared heads"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_is_the_same_as_without_it(model, tokenizer, kind: str, temperature: float) -> None:
    others = {"learned positions": gpt2, "shared heads": llama_of_shared_heads}
    model = others[kind](tokenizer) if kind in others else model
    attention = model.config._attn_implementation
    tokens = tokenizer(PROMPTS)["input_ids"]
    prefix = PrefixCache.of(model, common_prefix(tokens))
    assert len(prefix.tokens) > 10
    plain = generate(model, tokenizer, PROMPTS, 24, temperature, stop=["q"], seed=[3, 4, 5, 6])
    for _ in range(2):  # it can be used again
        batches = generate_batches(
            model, tokenizer, PROMPTS, 24, temperature, stop=["q"], seed=[3, 4, 5, 6], prefix=prefix
        )
        assert {row.index: row.text for batch in batches for row in batch} == dict(enumerate(plain))
    assert len(set(plain)) == len(plain)
    assert model.config._attn_implementation == attention


def test_logits_behind_it_are_those_of_the_whole_text(model, tokenizer) -> None:
    tokens = tokenizer(PROMPTS[0])["input_ids"]
    prefix = PrefixCache.of(model, tokens[:10])
    rest = torch.tensor([tokens[10:]] * 3)
    with torch.no_grad():
        whole = model(torch.tensor([tokens])).logits[:, 10:]
        with prefix.attended(model):
            behind = model(rest, past_key_values=prefix.cache(3, len(tokens))).logits
    assert torch.allclose(behind, whole.expand_as(behind), atol=1e-4)
    assert not torch.allclose(behind, model(rest).logits, atol=1e-2)


def test_a_model_with_another_attention_has_none(tokenizer) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        **sizes,
        head_dim=32,
        num_hidden_layers=2,
        layer_types=["full_attention"] * 2,
        attn_logit_softcapping=5.0,
    )
    model = Gemma2ForCausalLM(config)
    attention = config._attn_implementation
    assert PrefixCache.of(model, [5, 6, 7]) is None
    assert config._attn_implementation == attention


def test_a_model_that_keeps_a_state_instead_has_none(tokenizer) -> None:
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, state_size=4)
    assert PrefixCache.of(MambaForCausalLM(config), [5, 6, 7]) is None


def test_common_prefix_leaves_a_token_of_each() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2, 4]]) == [1]
    assert common_prefix([[1, 2], [2]]) == []
