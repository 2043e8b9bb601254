"""In which precision and with which attention a model computes: one rule for everybody who loads one.

    load_base(name, inference_dtype(load_config(name)))

On a GPU that is bfloat16. On a CPU it is bfloat16 where the processor multiplies in it and the weights are stored in 16
bits: about three times as fast as float32 there. Weights that are stored in float32 keep it, so that a model which was
saved exactly computes exactly, on every machine.
"""

import torch
from transformers import PretrainedConfig

# As torch.cpu.get_capabilities names them: AVX-512 and AMX of x86, the matrix instructions of ARM.
CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")


def inference_dtype(config: PretrainedConfig) -> torch.dtype:
    """What a model of this configuration computes in when it writes, scores, or is the frozen base of a training."""
    if torch.cuda.is_available():
        return torch.bfloat16
    stored = config.dtype or config.get_text_config().dtype or torch.float32
    return torch.bfloat16 if stored.itemsize < 4 and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16; others convert every number, which is slow."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BFLOAT16)
