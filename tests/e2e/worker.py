"""The recipe with something changed in it, for one of several processes.

    accelerate launch tests/e2e/worker.py little-memory,count --config recipes/mcsb.yaml …

out-of-memory: generation runs out of memory on rank 1 in the second step. A CPU has no such error to cause (the system
kills the process instead), so it is raised as a GPU raises it.
little-memory: the whole weights don't seem to fit into the memory.
count: writes OUT/gathers-<rank>.json: for each step, how often many weights were gathered at once for its rows, and
how many collective operations and forward passes generation made.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from dlm_trl.train.distributed import prepare_deepspeed

prepare_deepspeed()

import torch

from dlm_trl.models import generate, sharding
from dlm_trl.online import callback

RANK = os.environ["RANK"]


def out_of_memory() -> None:
    generates, steps = generate._BatchGenerator.generate, []

    def fail(self: Any, *args: Any) -> Any:
        if RANK == "1" and len(steps) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return generates(self, *args)

    writes = callback.write_rows

    def write(*args: Any, **kwargs: Any) -> Any:
        steps.append(kwargs["step"])
        return writes(*args, **kwargs)

    generate._BatchGenerator.generate, callback.write_rows = fail, write


def count(out: Path) -> None:
    import deepspeed

    steps: list[dict[str, int]] = []
    generating = False

    def counted(name: str, function: Any, wanted: Any = lambda *args: generating) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if steps and wanted(*args):
                steps[-1][name] += 1
            return function(*args, **kwargs)

        return call

    for name in ("all_reduce", "all_gather_into_tensor", "all_gather", "broadcast"):
        setattr(torch.distributed, name, counted("collectives", getattr(torch.distributed, name)))
    gather = deepspeed.zero.GatheredParameters
    gather.__enter__ = counted("gathers", gather.__enter__, lambda context: len(getattr(context, "params", ())) > 2)
    writes, generates = callback.write_rows, generate._BatchGenerator.generate

    def write(*args: Any, **kwargs: Any) -> Any:
        written = writes(*args, **kwargs)
        out.mkdir(exist_ok=True)
        (out / f"gathers-{RANK}.json").write_text(json.dumps(steps))
        return written

    def generated(*args: Any) -> Any:
        nonlocal generating
        generating = True
        try:
            return generates(*args)
        finally:
            generating = False

    whole = callback.whole_weights

    def entered(wrapped: Any) -> Any:
        steps.append({"gathers": 0, "collectives": 0, "passes": 0})
        return whole(wrapped)

    from transformers import LlamaForCausalLM

    LlamaForCausalLM.forward = counted("passes", LlamaForCausalLM.forward)
    callback.write_rows, callback.whole_weights = write, entered
    generate._BatchGenerator.generate = generated


if __name__ == "__main__":
    changes, *arguments = sys.argv[1:]
    if "little-memory" in changes:
        sharding._free_memory = lambda device: 0
    if "out-of-memory" in changes:
        out_of_memory()
    if "count" in changes:
        count(Path(arguments[arguments.index("--output_dir") + 1]))
    sys.argv = ["recipes/sft.py", *arguments]
    runpy.run_path("recipes/sft.py", run_name="__main__")
