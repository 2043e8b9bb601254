"""Plain round-to-nearest at the bits and groups that AWQ uses: what a quantiser has to be better than.

    model = load_base(folder)
    rounded = round_to_nearest(model, group_size=128)      # names of the matrices; the model's weights are changed

The weights stay in the model's dtype, but each is one that 4 bits, a zero point and a scale can say; embeddings, norms
and lm_head stay as they are, like AWQ's.
"""

import torch
from transformers import PreTrainedModel

from dlm_trl.export.packing import is_layer_matrix, quantize_groups


@torch.no_grad()
def round_to_nearest(model: PreTrainedModel, group_size: int = 128) -> list[str]:
    """Round the matrices of all layers in place; their inputs are multiples of group_size. Returns their names."""
    matrices = {name: weight for name, weight in model.named_parameters() if is_layer_matrix(name, weight.shape)}
    for weight in matrices.values():
        weight.copy_(quantize_groups(weight, group_size).dequantize())
    return list(matrices)
