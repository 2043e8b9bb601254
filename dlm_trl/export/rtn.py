"""Plain round-to-nearest with AWQ's bits and groups: the baseline that a quantiser must beat.

    model = load_base(folder)
    rounded = round_to_nearest(model, group_size=128)      # names of the rounded matrices

The weights keep the model's dtype, but take only values that 4 bits, a zero point and a scale can represent.
Embeddings, norms and lm_head stay unchanged, as with AWQ.
"""

import torch
from transformers import PreTrainedModel

from dlm_trl.export.packing import is_layer_matrix, quantize_groups


def round_to_nearest(model: PreTrainedModel, group_size: int = 128) -> list[str]:
    """Round the matrices of all layers in place and return their names; inputs must be multiples of group_size."""
    matrices = {name: weight for name, weight in model.named_parameters() if is_layer_matrix(name, weight.shape)}
    with torch.no_grad():
        for weight in matrices.values():
            weight.copy_(quantize_groups(weight, group_size).dequantize())
    return list(matrices)
