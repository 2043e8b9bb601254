"""Fixtures for all tests: a small base model with random weights, and its tokenizer."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Property tests use the same examples on every machine; `make fuzz` uses other and more examples. No deadline, because
# the machine may be busy. Each example rewrites its files under tmp_path, so sharing the fixture is harmless.
LENIENT: Any = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **LENIENT)
settings.register_profile("fuzz", max_examples=3000, **LENIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = [
    "A starter is a mix of flour and water in which wild yeast and bacteria live.",
    "What lifts the dough? The gas that the yeast makes. Who bakes the bread? The baker bakes it early.",
    "system\nuser\nassistant\nYou answer in one short sentence, with the words of the notes.",
    "Kneading is pressing and folding a dough until it is smooth. Gluten is a net that holds the gas.",
]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restores the signal handlers, which the command line and torch's launcher replace.

    A process that a later test forks would inherit them, and might not end when its pool terminates it.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama with 2 layers of width 64 and a byte-level BPE tokenizer with a ChatML template.

    It has a pad token, `<|im_end|>` as its end of turn, 512 positions, and sizes that DoRA, AdaLoRA and bitsandbytes
    support.
    """
    import torch  # not at the top, so that tests of modules without torch don't load it
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("random_base")
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # so that logits differ clearly
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained_adapter(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LoRA adapter of the random base that changes its output, with the base's tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model

    from dlm_trl.models.load import load_base, load_tokenizer

    folder = tmp_path_factory.mktemp("trained_adapter")
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(load_base(str(random_base)), config).save_pretrained(folder)
    load_tokenizer(str(random_base)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(random_base: Path) -> "PreTrainedTokenizerBase":
    from dlm_trl.models.load import load_tokenizer

    return load_tokenizer(str(random_base))


@pytest.fixture
def model(random_base: Path) -> "PreTrainedModel":
    """The random base, loaded anew for each test."""
    from dlm_trl.models.load import load_base

    return load_base(str(random_base))


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=384, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    )
