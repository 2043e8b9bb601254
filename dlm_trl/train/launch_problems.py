"""Which adapters and quantized bases work with how a run is launched: `launch_problems(adapter, training)`.

What is refused here fails later in the libraries, or trains something wrong without an error.
"""

import os
from collections.abc import Iterator

from trl import DPOConfig, SFTConfig

from dlm_trl.train.arguments import AdapterArguments

WHOLE = "Launch with ddp.yaml or deepspeed_zero2.yaml, where each GPU has the whole base, or don't quantize it."


def launch_problems(adapter: AdapterArguments, training: SFTConfig | DPOConfig) -> Iterator[str]:
    """A line for each setting that doesn't work with DeepSpeed or FSDP, with the reason and with what does work."""
    deepspeed, quantized = training.deepspeed_plugin, f"quantization {adapter.quantization}"
    fsdp = bool(training.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if adapter.quantization and deepspeed is not None and deepspeed.zero_stage == 3:
        # PEFT documents a way (bnb_4bit_quant_storage, no device_map). With the versions of constraints.txt, it trained
        # on two CPUs without an error, but from a loss of 14.0, where one process starts from 5.9.
        yield (
            f"{quantized} with ZeRO-3 isn't supported: sharded 4-bit weights gave a wrong loss in our tests, and 8-bit "
            f"ones have not been tested. {WHOLE}"
        )
    if adapter.quantization and fsdp:
        yield (
            f"{quantized} with FSDP isn't supported: FSDP loses what bitsandbytes needs to read its weights "
            f"(https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1945). {WHOLE}"
        )
    if adapter.adapter == "adalora" and deepspeed is not None:
        yield "adalora reads gradients, which DeepSpeed keeps to itself: use lora, or launch without DeepSpeed."
    if adapter.adapter == "adalora" and fsdp:
        yield "adalora compares the gradients of all layers, which FSDP shards: use lora, or launch with ddp.yaml."
