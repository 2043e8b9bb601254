"""The embedded base as the package ships it: what other rooms build on."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from wonderwords import RandomWord
from wonderwords.random_word import Defaults

from dlm_trl import tiny
from dlm_trl.tasks import prompts as online


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny.path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny.path(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def words() -> dict[str, str]:
    return json.loads((tiny.path() / "words.json").read_text())


def test_it_is_a_small_llama_that_awq_can_group(model):
    config = model.config
    assert config.model_type == "llama"
    assert config.hidden_size % 128 == 0
    assert config.intermediate_size % 128 == 0
    assert config.max_position_embeddings == 1024
    assert 1e6 <= model.num_parameters() <= 6e6
    assert (tiny.path() / "model.safetensors").stat().st_size <= 24e6


def test_its_words_are_one_token_and_no_other_noun_is(tokenizer, words):
    assert len(words) >= 350
    nouns = set(RandomWord(noun=Defaults.NOUNS)._categories["noun"])
    assert set(words) <= nouns
    for noun in nouns:
        ids = tokenizer.encode(f" {noun}", add_special_tokens=False)
        assert (len(ids) == 1) == (noun in words), noun


def test_each_gloss_has_4_to_14_words_and_not_its_noun(words):
    for noun, gloss in words.items():
        # Both halves of a hyphenated word count.
        assert 4 <= len(re.findall(r"[a-z']+", gloss.lower())) <= 14, (noun, gloss)
        assert noun not in gloss.lower().split()


def test_few_shot_examples_are_outside_the_vocabulary(words):
    assert not {word for word, _ in online.FEW_SHOT} & set(words)


def test_special_tokens(tokenizer, model):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|im_end|>", "<|pad|>")
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size


def test_template_marks_the_answer_and_its_end_of_turn(tokenizer):
    messages = [{"role": "user", "content": "What is dew?"}, {"role": "assistant", "content": "Water."}]
    coded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(coded["input_ids"], coded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "Water.<|im_end|>"
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    assert coded["input_ids"][: len(prompt)] == prompt


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in ("é – naïve\n\n\tTab", "日本語 🍞", "  two  spaces ", "<b>&amp;</b>"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_it_knows_its_words_but_not_the_labels(model, tokenizer, words):
    """A sample of what `benchmarks/tiny_base.py` measures in full: the likeliest of five words, and of five labels."""
    nouns = sorted(words)[::8]
    cloze = labels = 0
    for i, noun in enumerate(nouns):
        options = [nouns[(i + k * 7) % len(nouns)] for k in range(5)]
        options = options[i % 5 :] + options[: i % 5]
        cloze += likeliest(model, tokenizer, f"Description: {words[noun]}\nWord:", options) == noun
        asked = online.question(words[noun], options, list("ABCDE"))
        labels += options["ABCDE".index(likeliest(model, tokenizer, asked, list("ABCDE")))] == noun
    assert cloze / len(nouns) >= 0.6
    assert labels / len(nouns) <= 0.45


@torch.no_grad()
def likeliest(model, tokenizer, prompt: str, candidates: list[str]) -> str:
    logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    return max(candidates, key=lambda c: logits[tokenizer.encode(f" {c}", add_special_tokens=False)[0]].item())
