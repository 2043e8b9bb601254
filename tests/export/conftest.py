"""Fixtures of the export tests: base models with random weights, one for each way of storing a model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2}


@pytest.fixture(scope="session")
def make_base(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_base(kind, dtype): the folder of a base; llama, tied (its embeddings are), qwen2 (biases), gpt2 (Conv1D)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_base)
    ids = {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    common = {"vocab_size": len(tokenizer), **ids}
    made: dict[tuple[str, torch.dtype], Path] = {}

    def make(kind: str, dtype: torch.dtype = torch.float32) -> Path:
        if kind == "llama" and dtype == torch.float32:
            return random_base
        if (kind, dtype) not in made:
            config = {
                "llama": lambda: LlamaConfig(**common, **SMALL),
                "tied": lambda: LlamaConfig(**common, **SMALL, tie_word_embeddings=True),
                "qwen2": lambda: Qwen2Config(**common, **SMALL),
                "gpt2": lambda: GPT2Config(**common, n_embd=64, n_layer=2, n_head=2, initializer_range=0.2),
            }[kind]()
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter)
            folder = tmp_path_factory.mktemp(kind)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[kind, dtype] = folder
        return made[kind, dtype]

    return make


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """make_adapter(base, config, change): the folder of an adapter that changes all of its modules.

    change(model) sees the model with the adapter before it is saved.
    """

    def make(
        base: Path, config: LoraConfig | AdaLoraConfig, change: Callable[[PeftModel], None] = lambda model: None
    ) -> Path:
        config.base_model_name_or_path = str(base)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                # Magnitudes are positive, and AdaLoRA's singular values start at zero.
                drawn = torch.rand_like(parameter) + 0.5 if "magnitude" in name else 0.3 * torch.randn_like(parameter)
                parameter.data = drawn
            elif parameter.requires_grad:  # trained biases
                parameter.data = torch.randn_like(parameter)
        change(model)
        folder = tmp_path / "adapter"
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def training_step() -> Callable[[Path], dict[str, object]]:
    """training_step(base): the lineage record of training on this base."""
    from dlm_trl.models.lineage import fingerprint
    from dlm_trl.models.weights import find_weights

    return lambda base: {
        "step": "train",
        "base": str(base),
        "base_fingerprint": fingerprint(find_weights(str(base))),
        "document": "01JZZZZZZZZZZZZZZZZZZZZZZZ",
        "rows": {"human": 12},
        "task": None,
        "adapter": {"type": "lora", "rank": 4},
        "quantization": None,
        "seed": 42,
    }
