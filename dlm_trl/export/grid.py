"""Was a model's base stored in 4 bits or fewer before? Then its weights still lie on that coarse grid.

    share_on_grid(find_weights("models/smollm2"))    # 1.0: dequantised from a 4-bit GGUF; 0.0: trained, or merged
    describe_grid(Path("runs/merged"), steps)         # "its base was dequantised from Q4_1"; None for any other base

Every 4-bit format gives neighbouring weights a common scale, in blocks of 32 or a multiple of it (GGUF's Q4_0, Q4_1 and
Q4_K, MXFP4, NF4, AWQ), so such a block holds at most 16 different numbers. Casting to bfloat16 can merge two of them,
never split one. 32 trained weights in bfloat16 hold about 30.

A merged adapter moves almost every weight it reaches off the grid, if only by a hundredth of a standard deviation. The
weights then say nothing any more, and the lineage or the base's own folder is asked.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from dlm_trl.export.packing import BITS, is_layer_matrix
from dlm_trl.models.lineage import Step, last
from dlm_trl.models.weights import Weights, find_weights

BLOCK = 32  # weights
ROWS = 8  # of each matrix
MOST = 0.5  # of the blocks: mixed formats such as Q4_K_M keep some matrices in 6 bits
_COARSE = re.compile(r"\bI?Q[1-4]_|FP4|NF4", re.IGNORECASE)


def share_on_grid(weights: Weights) -> float:
    """The share of blocks that 4 bits and one scale could hold, over the first rows of every matrix of the layers.

    0 for a model whose matrices don't divide into blocks.
    """
    found = total = 0
    for name, shape in weights.shapes().items():
        if is_layer_matrix(name, shape.size) and shape.size[1] % BLOCK == 0:
            with safe_open(weights.files[name], framework="pt") as tensors:
                rows = tensors.get_slice(name)[:ROWS]
            ordered = rows.float().view(-1, BLOCK).sort().values
            values = 1 + (ordered.diff() != 0).sum(-1)
            found += int((values <= 2**BITS).sum())
            total += len(values)
    return found / total if total else 0.0


def describe_grid(model: Path, steps: Sequence[Step]) -> str | None:
    """How it is known that a 16-bit model comes from a coarse grid; None where nothing says so.

    steps is the model's lineage. Only what is on this disk is read: a base that is no longer here is not downloaded.
    """
    if share_on_grid(find_weights(str(model.resolve()))) > MOST:
        return "its weights lie on a grid of 4 bits"
    for step in reversed(steps):
        if (source := step.get("base_source")) and _COARSE.search(source):
            return f"its base was {source}"
    base = (last(steps, "merge") or last(steps, "train") or {}).get("base")
    if base and (Path(base) / "config.json").is_file() and share_on_grid(find_weights(base)) > MOST:
        return f"its base {Path(base).name} lies on a grid of 4 bits"
    return None
