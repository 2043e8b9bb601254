"""Which adapters and quantized bases work with how a run is launched: `launch_problems(adapter, training)`.

What is refused here fails later in the libraries, or trains something wrong without an error.
"""

import os
from collections.abc import Iterator

from trl import DPOConfig, SFTConfig

from dlm_trl.train.arguments import AdapterArguments


def launch_problems(adapter: AdapterArguments, training: SFTConfig | DPOConfig) -> Iterator[str]:
    """A line for each setting that doesn't work with DeepSpeed or FSDP, with the reason and what does work."""
    deepspeed = training.deepspeed_plugin
    fsdp = bool(training.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if adapter.quantization and deepspeed is not None and deepspeed.zero_stage == 3:
        yield (
            f"quantization {adapter.quantization} doesn't work with ZeRO-3: transformers loads a quantized base onto one "
            "device, and ZeRO-3 shards it from there. Launch with ddp.yaml or deepspeed_zero2.yaml, where each GPU has "
            "the whole quantized base, or leave quantization out."
        )
    if adapter.quantization and fsdp:
        yield (
            f"quantization {adapter.quantization} doesn't work with FSDP, which loses what bitsandbytes needs to read its "
            "weights (bitsandbytes issue 1945). Launch with ddp.yaml, where each GPU has the whole quantized base, or "
            "leave quantization out."
        )
    if adapter.adapter == "adalora" and deepspeed is not None:
        yield "adalora reads gradients, which DeepSpeed keeps to itself: use lora, or launch without DeepSpeed."
    if adapter.adapter == "adalora" and fsdp:
        yield "adalora compares the ranks of all layers, which FSDP shards: use lora, or launch with ddp.yaml."
