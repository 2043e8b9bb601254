"""The process that runs autoawq: `python -m dlm_trl.export.awq_worker FOLDER`, started by `awq.quantize`.

FOLDER holds job.json: the model, the output folder for the weights, the blocks of token ids, the group size and the
seed. The worker writes smoothing.json there, and prints one line to stdout after each layer, such as "1 6". All fixes
that autoawq needs for current versions of transformers and torch are here. It's a separate process because importing
autoawq patches other libraries.

The method is AWQ (Lin et al., 2023, arXiv:2306.00978): before rounding, inputs with large activations are scaled up in
the weights and down in the preceding layer. The factors are found by search.
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

with redirect_stderr(StringIO()):  # hides autoawq's notice that it's unmaintained
    from awq.models._config import AwqConfig
    from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    from awq.models.phi3 import Phi3AWQForCausalLM
    from awq.quantize import quantizer as autoawq

AT_ONCE = 16  # blocks that go through a layer together; changes the memory use, not the result
SHARD_SIZE = "4GB"


class Quantizer(autoawq.AwqQuantizer):
    """autoawq's quantiser, but faster, and it records the scales it chose."""

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
        """The outputs of a module. Its matrix products take nine tenths of the search time, so they run in bfloat16."""
        with torch.autocast("cpu", torch.bfloat16, enabled=not torch.cuda.is_available() and cpu_has_bfloat16()):
            return super()._module_forward(*args)

    def _get_input_feat(self, *args: Any) -> dict[str, Tensor]:
        return {name: inputs.float() for name, inputs in super()._get_input_feat(*args).items()}

    @torch.no_grad()
    def _compute_best_clip(self, w: Tensor, input_feat: Tensor, n_sample_token: int = 512) -> Tensor:
        """The magnitude to clip each group at, (outputs, groups, 1): autoawq's search over the same tokens, but faster.

        autoawq multiplies every token with every weight, which takes two thirds of its time on a CPU. The mean squared
        change of a group's output is d G d, with the change d of its weights and the second moments G of the inputs.
        So one pass over the tokens, to compute G, is enough.
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
    """Doesn't scale the inputs of o_proj if heads share keys and values (Phi-4-mini).

    autoawq scales the last rows of the fused matrix for queries, keys and values as if all of them were values, which
    would ruin these models.
    """

    @staticmethod
    def get_layers_for_scaling(module: nn.Module, *args: Any) -> list[dict[str, Any]]:
        fused, out = module.self_attn.qkv_proj, module.self_attn.o_proj
        shared_values = fused.out_features != 3 * out.in_features
        groups = Phi3AWQForCausalLM.get_layers_for_scaling(module, *args)
        return [group for group in groups if not (shared_values and group["prev_op"] is fused)]


def main(folder: Path) -> None:
    """Run the job in the folder."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    disable_progress_bar()
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keeps the output of libraries out of the progress
    autoawq.tqdm = partial(report_progress, channel)
    torch.manual_seed(job["seed"])
    model = load(job["model"])
    smoothing = quantize(model, job["blocks"], job["group_size"])
    save(model, job["out"])
    (folder / "smoothing.json").write_text(json.dumps(smoothing), encoding="utf-8")


def report_progress(channel: TextIO, layers: Sequence[int], desc: str) -> Iterator[int]:
    """Yield the layers and write how many are done. A stand-in for tqdm.

    If the reader is gone, writing raises and ends the process, before the result is written.
    """
    for layer in layers:
        channel.write(f"{layer} {len(layers)}\n")
        yield layer
    channel.write(f"{len(layers)} {len(layers)}\n")


def load(folder: str) -> PreTrainedModel:
    """Load the model: in float16 with a GPU, in float32 on a CPU, where float16 takes twice the time."""
    dtype = torch.float16 if torch.cuda.is_available() else torch.float32
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_cache=False).eval()


def quantize(model: PreTrainedModel, blocks: list[list[int]], group_size: int) -> dict[str, dict[str, Any]]:
    """Quantise the layers in place, one by one, on a GPU if there is one.

    blocks: all of the same length. Returns the scales chosen for each group of matrices, by the name of the module
    that absorbs their inverse.
    """
    model_type = model.config.model_type
    # autoawq's from_pretrained passes arguments that transformers has removed, and trusts remote code.
    architecture = Phi3 if model_type == "phi3" else AWQ_CAUSAL_LM_MODEL_MAP[model_type]
    awq = architecture(model, model_type, False, model.config, AwqConfig(), None)
    awq.quantize(
        tokenizer=None,  # the blocks are already token ids
        quant_config={"w_bit": BITS, "q_group_size": group_size, "zero_point": True, "version": "gemm"},
        calib_data=blocks,
        max_calib_samples=len(blocks),
        max_calib_seq_len=len(blocks[0]),
        n_parallel_calib_samples=AT_ONCE,
        # The paper's scales: activations to a power. The search includes power 0, plain rounding, so no group is
        # worse than that. autoawq's default also divides by the weights' magnitudes, which excludes plain rounding.
        duo_scaling=False,
        quantizer_cls=Quantizer,
    )
    smoothing: dict[str, dict[str, Any]] = awq.quantizer.smoothing
    return smoothing


def save(model: PreTrainedModel, folder: str) -> None:
    """Save the packed matrices, and everything else in float16, the only dtype of vLLM's AWQ kernels.

    autoawq's save_quantized changes generation_config.json, and expects a list of tied weights, which is a mapping in
    transformers 5.
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
