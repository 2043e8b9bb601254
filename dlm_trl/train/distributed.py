"""Several processes on a machine without a GPU, with nothing to set by hand; call `prepare_deepspeed` before TRL loads.

`accelerate launch` tells its processes by the environment whether DeepSpeed is wanted.
"""

import os
import sys


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


def exit_worker() -> None:
    """End a process of several whose work is done, with no more ado; one that is alone goes on.

    The threads of a process group live as long as a model that holds it, and can abort the process while the
    interpreter takes itself down ("terminate called without an active exception"); the launcher then reports a failure.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
