"""The process in which autoawq works: `python -m dlm_trl.export.awq_worker FOLDER`, started by `awq.quantize`.

FOLDER holds job.json: the model, the folder to write its weights into, the blocks of token ids, the group size and the
seed; smoothing.json is left there. stdout has a line after each layer, "1 6", and nothing else. What
autoawq needs from today's transformers and torch is looked after here, and nowhere else; it is a process of its own
because importing autoawq changes things for everybody in the process.

The method is AWQ (Lin et al., 2023, arXiv:2306.00978): before rounding, the inputs of a group of matrices that carry
large activations are scaled up in the weights and down in the layer before, by factors that are searched for.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from dlm_trl.export.packing import BITS
from dlm_trl.models.precision import cpu_has_bfloat16

with redirect_stderr(StringIO()):  # autoawq says that it is not maintained any more, and will not be silenced otherwise
    from awq.models._config import AwqConfig
    from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    from awq.models.phi3 import Phi3AWQForCausalLM
    from awq.quantize import quantizer as autoawq

AT_ONCE = 16  # blocks that go through a layer together: the memory of a layer depends on it, the result does not
SHARD_SIZE = "4GB"


class Quantizer(autoawq.AwqQuantizer):
    """autoawq's own, which remembers what it chose, and searches in less time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.losses: list[float] = []
        self.smoothing: dict[str, dict[str, Any]] = {}
        super().__init__(*args, **kwargs)

    def _search_best_scale(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[str, tuple[str, ...], Tensor]:
        self.losses = []
        before, matrices, scales = super()._search_best_scale(module, *args, **kwargs)
        layer = next(number for number, layer in enumerate(self.modules) if layer is module)
        self.smoothing[f"model.layers.{layer}.{before}"] = {
            "matrices": list(matrices),
            "scales": {"min": scales.min().item(), "max": scales.max().item(), "mean": scales.mean().item()},
            "ratio": self.losses.index(min(self.losses)) / len(self.losses),
            "loss": min(self.losses),
            "loss_of_rounding": self.losses[0],  # at ratio 0 every scale is 1
        }
        return before, matrices, scales

    def _compute_loss(self, *args: Any) -> float:
        self.losses.append(super()._compute_loss(*args))
        return self.losses[-1]

    def _module_forward(self, *args: Any) -> Tensor:
        """The outputs of a module, whose products are nine tenths of the search's time."""
        with torch.autocast("cpu", torch.bfloat16, enabled=not torch.cuda.is_available() and cpu_has_bfloat16()):
            return super()._module_forward(*args)

    def _get_input_feat(self, *args: Any) -> dict[str, Tensor]:
        return {name: inputs.float() for name, inputs in super()._get_input_feat(*args).items()}

    @torch.no_grad()
    def _compute_best_clip(self, w: Tensor, input_feat: Tensor, n_sample_token: int = 512) -> Tensor:
        """The magnitude to clip each group at, (outputs, groups, 1): the same search over the same tokens.

        autoawq multiplies every token with every weight one by one and sums them up, two thirds of its time on a CPU.
        The mean squared change of a group's output is d G d for the change d of its weights and the inputs' second
        moments G, so the tokens go into G once.
        """
        tokens = input_feat.view(-1, w.shape[1])
        tokens = tokens[:: max(1, len(tokens) // n_sample_token)].float().to(w.device)
        grouped = tokens.view(len(tokens), -1, self.group_size).transpose(0, 1)  # (groups, tokens, inputs)
        moments = grouped.transpose(1, 2) @ grouped / len(tokens)
        weight = w.view(w.shape[0], -1, self.group_size).transpose(0, 1)  # (groups, outputs, inputs)
        largest = weight.abs().amax(dim=-1, keepdim=True)
        best, least = largest.clone(), torch.full_like(largest, torch.inf, dtype=torch.float32)
        for step in range(10):
            bound = largest * (1 - step / 20)
            rounded = self.pseudo_quantize_tensor(weight.clamp(-bound, bound).reshape(-1, self.group_size))[0]
            change = (rounded.view_as(weight) - weight).float()
            error = ((change @ moments) * change).sum(dim=-1, keepdim=True)
            better = error < least
            least[better], best[better] = error[better], bound[better]
        return best.transpose(0, 1)


class Phi3(Phi3AWQForCausalLM):
    """autoawq scales the last rows of the fused matrix for queries, keys and values as if they all were values, which
    ruins a model whose heads share keys and values (Phi-4-mini); there the inputs of o_proj stay as they are.
    """

    @staticmethod
    def get_layers_for_scaling(module: nn.Module, *args: Any) -> list[dict[str, Any]]:
        fused, out = module.self_attn.qkv_proj, module.self_attn.o_proj
        own_values = fused.out_features == 3 * out.in_features
        groups = Phi3AWQForCausalLM.get_layers_for_scaling(module, *args)
        return [group for group in groups if group["prev_op"] is not fused or own_values]


def main(folder: Path) -> None:
    """Do the job that lies in the folder."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    disable_progress_bar()
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no progress
    autoawq.tqdm = partial(told, channel)  # in place of its bar
    torch.manual_seed(job["seed"])
    model = load(job["model"])
    smoothing = quantize(model, job["blocks"], job["group_size"])
    save(model, job["out"])
    (folder / "smoothing.json").write_text(json.dumps(smoothing), encoding="utf-8")


def told(channel: TextIO, layers: Sequence[int], desc: str) -> Iterator[int]:
    """The numbers of the layers; tells how many are done. Ends the process when nobody listens any more, at the latest
    before the result is written.
    """
    for layer in layers:
        channel.write(f"{layer} {len(layers)}\n")
        yield layer
    channel.write(f"{len(layers)} {len(layers)}\n")


def load(folder: str) -> PreTrainedModel:
    """In float32 on a CPU, where float16 takes twice the time; in float16 where there is a GPU."""
    dtype = torch.float16 if torch.cuda.is_available() else torch.float32
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_cache=False).eval()


def quantize(model: PreTrainedModel, blocks: list[list[int]], group_size: int) -> dict[str, dict[str, Any]]:
    """Quantise the layers in place, one by one; autoawq takes each to a GPU where there is one.

    blocks are equally long. Returns what was chosen for each group of matrices, by the module that takes up the
    inverse of their scales.
    """
    model_type = model.config.model_type
    # Its own from_pretrained would pass arguments that transformers has dropped, and allow a model to run its own code.
    architecture = Phi3 if model_type == "phi3" else AWQ_CAUSAL_LM_MODEL_MAP[model_type]
    awq = architecture(model, model_type, False, model.config, AwqConfig(), None)
    awq.quantize(
        tokenizer=None,  # the blocks are token ids
        quant_config={"w_bit": BITS, "q_group_size": group_size, "zero_point": True, "version": "gemm"},
        calib_data=blocks,
        max_calib_samples=len(blocks),
        max_calib_seq_len=len(blocks[0]),
        n_parallel_calib_samples=AT_ONCE,
        # The paper's scales, activations to a power: 0 is among the powers, so that no group comes out worse than plain
        # rounding. autoawq's default divides by the weights' magnitudes besides and has no way back to rounding.
        duo_scaling=False,
        quantizer_cls=Quantizer,
    )
    return awq.quantizer.smoothing


def save(model: PreTrainedModel, folder: str) -> None:
    """Packed matrices, and all else in float16, the one dtype in which vLLM's AWQ kernels compute.

    autoawq's own way leaves a changed generation_config behind and knows tied weights as a list, which is a mapping
    in transformers 5.
    """
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"not finite in float16: {', '.join(broken[:5])}")
    save_torch_state_dict(tensors, folder, max_shard_size=SHARD_SIZE, metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
