"""What several processes need on a machine without a GPU. Call `prepare_deepspeed` before TRL is imported."""

import os
import sys


def prepare_deepspeed() -> None:
    """On machines without a GPU, keep DeepSpeed from compiling its shared-memory operator at start.

    The operator only speeds up communication between CPU processes. Building it takes over a minute, and a build that
    is killed leaves a lock that later runs wait for. `accelerate launch` says through the environment whether DeepSpeed
    is used.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true":
        return
    import torch

    if torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def exit_worker(code: int = 0) -> None:
    """Exit immediately with this code if this is one of several processes; a single process goes on.

    The threads of a process group live as long as a model that holds it, and can abort the process while the
    interpreter shuts down ("terminate called without an active exception"); the launcher then reports a failure.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
