"""Several processes on a machine without a GPU, with nothing to set by hand; call `prepare_deepspeed` before TRL loads.

`accelerate launch` tells its processes by the environment whether DeepSpeed is wanted.
"""

import os


def prepare_deepspeed() -> None:
    """On machines without a GPU, keeps DeepSpeed from compiling a shared-memory operator when it starts.

    The operator is an option that only speeds up the communication of CPU processes; building it takes over a minute,
    and a build that is killed leaves a lock on which later runs wait.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true":
        return
    import torch

    if torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
