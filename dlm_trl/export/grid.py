"""Were a model's weights stored in 4 bits or fewer before? Then they still lie on that coarse grid.

    share_on_grid(find_weights("models/smollm2"))    # 1.0: dequantised from a 4-bit GGUF file; 0.0: trained, or merged
    describe_grid(Path("runs/merged"), steps)         # "its base was dequantised from Q4_1"; None for other bases

All 4-bit formats give neighbouring weights a common scale, in blocks of 32 or a multiple (GGUF's Q4_0, Q4_1 and Q4_K,
MXFP4, NF4, AWQ), so a block has at most 16 different values. Casting to bfloat16 can merge two values but never split
one. A block of 32 trained weights in bfloat16 has about 30.

A merged adapter moves nearly all its weights off the grid, if only by a hundredth of a standard deviation. After that
only the lineage or the base's own folder can tell.
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
MIN_SHARE = 0.5  # of the blocks; mixed formats such as Q4_K_M keep some matrices in 6 bits
_COARSE = re.compile(r"\bI?Q[1-4]_|FP4|NF4", re.IGNORECASE)


def share_on_grid(weights: Weights) -> float:
    """The share of blocks that fit in 4 bits and one scale, over the first rows of all layer matrices.

    0 for a model whose matrices don't divide into blocks.
    """
    on_grid = total = 0
    for name, shape in weights.shapes().items():
        if is_layer_matrix(name, shape.size) and shape.size[1] % BLOCK == 0:
            with safe_open(weights.files[name], framework="pt") as tensors:
                rows = tensors.get_slice(name)[:ROWS]
            ordered = rows.float().view(-1, BLOCK).sort().values
            values = 1 + (ordered.diff() != 0).sum(-1)
            on_grid += int((values <= 2**BITS).sum())
            total += len(values)
    return on_grid / total if total else 0.0


def describe_grid(model: Path, records: Sequence[Step]) -> str | None:
    """Why a 16-bit model is known to come from a coarse grid; None if there is no sign of it.

    records: the model's lineage. Only local files are read: a base that is gone isn't downloaded again.
    """
    if share_on_grid(find_weights(str(model.resolve()))) > MIN_SHARE:
        return "its weights are on a 4-bit grid"
    for record in reversed(records):
        if (source := record.get("base_source")) and _COARSE.search(source):
            return f"its base was {source}"
    base = (last(records, "merge") or last(records, "train") or {}).get("base")
    if base and (Path(base) / "config.json").is_file() and share_on_grid(find_weights(base)) > MIN_SHARE:
        return f"its base {Path(base).name} is on a 4-bit grid"
    return None
