"""The precision for inference: `inference_dtype(config)`.

    load_base("smollm2-135m", "inference")                              # uses it
    AutoModelForCausalLM.from_pretrained(folder, dtype=inference_dtype(AutoConfig.from_pretrained(folder)))

All generation, scoring and measuring uses this dtype, so that a model's numbers are comparable.
"""

import torch
from transformers import PretrainedConfig

# CPU capabilities that mean bfloat16 multiplication in hardware: AVX-512, AMX, and Arm. Without them every number is
# converted first, several times slower than float32.
_BFLOAT16_CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16")


def inference_dtype(config: PretrainedConfig) -> torch.dtype:
    """The dtype to load a model in.

    On a GPU: bfloat16, or the stored dtype of weights that are quantised on disk. On a CPU: bfloat16 if the weights are
    stored in 16 bits and the processor supports it, else float32, which is exact and equal on every machine.
    """
    # Without a recorded dtype, nothing is rounded.
    stored = config.get_text_config().dtype or torch.float32
    if torch.cuda.is_available():
        return stored if hasattr(config, "quantization_config") else torch.bfloat16
    return torch.bfloat16 if stored.itemsize == 2 and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies matrices in bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _BFLOAT16_CAPABILITIES)
