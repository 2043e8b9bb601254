"""The precision in which a model is asked, when nobody trains it: `inference_dtype(config)`.

    load_base("smollm2-135m", "inference")                              # by this rule
    AutoModelForCausalLM.from_pretrained(folder, dtype=inference_dtype(AutoConfig.from_pretrained(folder)))

Everybody who generates, scores or measures loads by this rule, so that two numbers of one model are comparable.
"""

import torch
from transformers import PretrainedConfig

# What a processor says when it multiplies bfloat16 in hardware: x86 with AVX-512 or AMX, and Arm. Others convert every
# number first and are several times slower than in float32.
_MULTIPLIES_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")


def inference_dtype(config: PretrainedConfig) -> torch.dtype:
    """The dtype to load the model of this configuration in.

    On a GPU bfloat16, or the dtype that weights quantised on disk were made for. On a CPU bfloat16 where the weights
    are stored in 16 bits and the processor multiplies them; else float32, so weights stored in float32 compute exactly,
    and alike on every machine.
    """
    # Some configurations do not say how their weights are stored. Of those nothing is rounded.
    stored = config.get_text_config().dtype or torch.float32
    if torch.cuda.is_available():
        return stored if hasattr(config, "quantization_config") else torch.bfloat16
    return torch.bfloat16 if stored.itemsize == 2 and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _MULTIPLIES_BFLOAT16)
