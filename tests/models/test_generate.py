"""Generation: independent of batches, samples follow the model's distribution, and the model isn't changed."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import by_token_budget
from dlm_trl.models.generate import Generated, generate, generate_batches
from dlm_trl.notes.errors import DlmError

PROMPTS = ["What lifts", "A", "Who bakes the bread? The baker", "Kneading is pressing and folding a dough until"]


def by_hand(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], steps: int) -> list[int]:
    """The new tokens of greedy decoding by definition: one prompt, no cache, no padding."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return ids[len(prompt) :]


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_greedy_batches_equal_single_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, budget: int
) -> None:
    tokens = [tokenizer(p)["input_ids"] for p in PROMPTS]
    new = [by_hand(model.eval(), tokenizer, t, 12) for t in tokens]
    expected = tokenizer.batch_decode(new, skip_special_tokens=True)
    assert generate(model, tokenizer, PROMPTS, 12, token_budget=budget) == expected
    assert generate(model, tokenizer, tokens, 12, token_budget=budget) == expected


@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_rows_that_end_early_leave_their_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, budget: int
) -> None:
    ends = list(range(300, len(tokenizer)))  # so many that texts end at any step
    model.generation_config.eos_token_id = ends
    prompts = [tokenizer(p)["input_ids"] for p in PROMPTS] + [[5 + i, 40, 7 * i + 8] for i in range(12)]
    new = [by_hand(model.eval(), tokenizer, p, 30) for p in prompts]
    counts = [next((k + 1 for k, token in enumerate(row) if token in ends), len(row)) for row in new]
    assert len(set(counts)) > 6
    whole = [row[-1:] == [tokenizer.eos_token_id] or row[c - 1] in ends for row, c in zip(new, counts, strict=True)]
    texts = tokenizer.batch_decode(
        [row[: c - ended] for row, c, ended in zip(new, counts, whole, strict=True)], skip_special_tokens=True
    )
    batches = list(generate_batches(model, tokenizer, prompts, 30, token_budget=budget))
    assert sorted(row for batch in batches for row in batch) == [
        Generated(i, text, count) for i, (text, count) in enumerate(zip(texts, counts, strict=True))
    ]
    assert len(batches) == len(list(by_token_budget([len(p) + 30 for p in prompts], budget)))


def test_a_stopped_text_counts_the_tokens_up_to_its_stop(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    (alone,) = generate(model, tokenizer, ["What lifts"], 16)
    stop = alone[3:5]  # inside a token
    for spare in ([], PROMPTS[1:]):  # alone, and in a batch with longer rows
        rows = [r for b in generate_batches(model, tokenizer, ["What lifts", *spare], 16, stop=[stop]) for r in b]
        count = next(row.new_tokens for row in rows if row.row == 0)
        written = by_hand(model.eval(), tokenizer, tokenizer("What lifts")["input_ids"], 16)
        assert stop in tokenizer.decode(written[:count])
        assert stop not in tokenizer.decode(written[: count - 1])


def test_the_models_generation_config_is_ignored(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
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


def test_sampling_is_reproducible_and_restores_all_state(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_dropout=0.5))
    adapted.train()
    adapted.base_model.model.model.norm.eval()  # a module in eval mode stays in eval mode
    modes = [m.training for m in adapted.modules()]
    state, side = torch.get_rng_state(), tokenizer.padding_side
    first = generate(adapted, tokenizer, PROMPTS, 12, temperature=1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert generate(adapted, tokenizer, PROMPTS, 12, temperature=1.0, seed=1) == first
    assert generate(adapted, tokenizer, PROMPTS, 12, temperature=1.0, seed=2) != first
    assert [m.training for m in adapted.modules()] == modes
    assert tokenizer.padding_side == side


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_a_sampled_text_does_not_depend_on_its_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, top_p: float
) -> None:
    model.generation_config.eos_token_id = list(range(300, 330))
    prompts = [p for p in PROMPTS for _ in range(5)]
    seeds = [1_000_003 * i for i in range(len(prompts))]
    together = generate(model, tokenizer, prompts, 20, temperature=1.2, top_p=top_p, seed=seeds)
    assert len(set(together)) > 15
    turned = generate(model, tokenizer, prompts[::-1], 20, 1.2, top_p, seed=seeds[::-1], token_budget=60)
    alone = [
        generate(model, tokenizer, [prompt], 20, 1.2, top_p, seed=[seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert turned[::-1] == together == alone


def test_logits_that_are_not_numbers_are_an_error(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    broken = deepcopy(model)
    broken.get_output_embeddings().weight = torch.nn.Parameter(torch.full_like(model.lm_head.weight, torch.nan))
    with pytest.raises(DlmError, match="logits aren't numbers"):
        generate(broken, tokenizer, PROMPTS, 8, temperature=1.0, seed=1)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 1.0), (1.5, 0.7)])
def test_samples_follow_the_models_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, temperature: float, top_p: float
) -> None:
    count, prompt = 4000, tokenizer("What lifts")["input_ids"]
    with torch.no_grad():
        likely = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1).sort(descending=True)
    kept = likely.values.cumsum(-1) - likely.values < top_p  # the smallest set with this mass
    expected = torch.zeros(len(tokenizer)).scatter(0, likely.indices, likely.values * kept)
    expected /= expected.sum()
    rows = 500  # per batch; a token is identified by its text
    drawn = generate(
        model, tokenizer, [prompt] * count, 1, temperature, top_p, seed=7, token_budget=rows * (len(prompt) + 1)
    )
    shares: dict[str, float] = {}
    for token, share in enumerate(expected.tolist()):
        text = tokenizer.decode([token], skip_special_tokens=True)
        shares[text] = shares.get(text, 0.0) + share
    # Pearson's statistic has mean k and variance 2k for k degrees of freedom.
    frequent = {text: share for text, share in shares.items() if share * count >= 5}
    statistic = sum((drawn.count(t) - s * count) ** 2 / (s * count) for t, s in frequent.items())
    assert len(frequent) > 10
    assert statistic < len(frequent) + 4 * (2 * len(frequent)) ** 0.5
    assert all(shares[text] > 0 for text in drawn)


def test_one_seed_per_prompt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="3 seeds for 4 prompts"):
        generate(model, tokenizer, PROMPTS, 8, temperature=1.0, seed=[1, 2, 3])


def test_without_a_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    expected = generate(model, tokenizer, PROMPTS, 8)
    model.generation_config.pad_token_id = None
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    assert bare.pad_token is None
    assert generate(model, bare, PROMPTS, 8) == expected


def test_without_prompts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert generate(model, tokenizer, [], 8) == []
