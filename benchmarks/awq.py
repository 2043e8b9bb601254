"""What is lost at 4 bits, with AWQ and with rounding: `python benchmarks/awq.py runs/notes-merged recipes/notes.dlm`.

    python benchmarks/awq.py MODEL_DIR CALIBRATION --group-size 64 --noise 0.02 --seeds 0 1
    python benchmarks/awq.py MODEL_DIR CALIBRATION --group-size 64 --tune 200 --text recipes/rehearsal.txt
    python benchmarks/awq.py --random 1 recipes/notes.dlm          # a random-weight Llama of 1 B, for time and memory

Needs the extra `quant`, which .venv-quant has. --noise and --tune move the weights of a base that was read from a 4-bit
GGUF off its grid: with noise, or by full fine-tuning on a text and the notes. Prints two lines of JSON per seed. The
first has seconds and bytes. The second has, on held-out texts, the divergence from the 16-bit model (nats per token)
and the perplexity, each with AWQ's loss as a share of rounding's, and the run's metrics in 16 bit, rounded and with
AWQ. For comparison, the AWQ paper (Lin et al., MLSys 2024, table 4) reports for Llama-2-7B on WikiText-2, in groups of
128: 5.47 in 16 bit, 5.73 rounded, 5.60 with AWQ, a share of 0.5.
"""

import argparse
import json
import platform
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from dlm_trl.export.awq import quantize
from dlm_trl.export.awq_step import DIVERGENCE
from dlm_trl.export.calibration import read_calibration
from dlm_trl.export.checks import divergence_checks, perplexity
from dlm_trl.export.grid import share_on_grid
from dlm_trl.export.model_inputs import build_inputs, recorded_eval_spec
from dlm_trl.export.model_outputs import ModelOutputs, compute_outputs
from dlm_trl.export.packing import is_layer_matrix
from dlm_trl.models import lineage
from dlm_trl.models.load import load_tokenizer
from dlm_trl.models.tokenize import windows
from dlm_trl.models.weights import find_weights

TOKENS = 256  # per step of fine-tuning
LEARNING_RATE = 2e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL_DIR", type=Path)
    parser.add_argument("calibration", metavar="CALIBRATION", type=Path)
    parser.add_argument(
        "--random", type=float, metavar="BILLIONS", help="a Llama with random weights, without MODEL_DIR"
    )
    parser.add_argument("--width", type=int, default=2048, help="of the random Llama (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.0, help="add noise to each matrix, in standard deviations")
    parser.add_argument("--tune", type=int, default=0, metavar="STEPS", help="fine-tune first; 256 tokens per step")
    parser.add_argument("--text", type=Path, help="text for --tune, which alternates it with CALIBRATION")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="for noise, fine-tuning and calibration")
    options = parser.parse_args()
    if options.tune and not options.text:
        parser.error("--tune needs --text: a file to fine-tune on.")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    versions = {name: version(name) for name in ("autoawq", "gptqmodel", "torch", "transformers")}
    show({"machine": {"device": device, "python": platform.python_version(), **versions}})
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            model = options.model if not options.random else random_llama(Path(scratch) / "random", options)
            if options.noise:
                model = with_noise(model, Path(scratch) / "noise", options.noise, seed)
            if options.tune:
                model = fine_tuned(
                    model, Path(scratch) / "tuned", options.calibration, options.text, options.tune, seed
                )
            out = Path(scratch) / "awq"
            started = time.perf_counter()
            quantize(model, out, options.calibration, options.group_size, samples=options.samples, seed=seed)
            seconds = time.perf_counter() - started
            show({"seed": seed, **costs(model, out, seconds)})
            if not options.random:  # random weights have no meaningful perplexity
                show({"seed": seed, **losses(model, out, options.group_size, Path(scratch))})


def costs(model: Path, out: Path, seconds: float) -> dict[str, Any]:
    step = lineage.read(out)[-1]
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    return {
        "share_on_grid": round(share_on_grid(find_weights(str(model.resolve()))), 3),
        "seconds": round(seconds, 1),
        "calibration_tokens": step["calibration"]["tokens"],
        "bytes": {
            "before": size,
            "after": step["bytes"]["written"],
            "ratio": round(size / step["bytes"]["written"], 2),
        },
        "peak_memory_of_subprocess_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9, 2),
    }


def losses(model: Path, out: Path, group_size: int, scratch: Path) -> dict[str, Any]:
    steps = lineage.read(out)
    inputs = build_inputs(recorded_eval_spec(steps, None)[0], steps, AutoTokenizer.from_pretrained(model), prompts=1)
    inputs = replace(inputs, chats=())
    outputs = {
        "16 bit": compute_outputs(inputs, str(model), scratch / "16"),
        "rounded": compute_outputs(inputs, str(model), scratch / "rounded", round_to=group_size),
        "AWQ": compute_outputs(inputs, str(out), scratch / "4"),
    }
    divergences = divergence_checks(inputs.text_names, *outputs.values(), DIVERGENCE)
    return {
        "divergence": {
            check.name.removeprefix("divergence, "): {
                "rounded": round(check.rounding, 4),
                "AWQ": round(check.after, 4),
                "share": round(check.after / check.rounding, 2),
            }
            for check in divergences
        },
        "perplexity": {name: perplexities(name, outputs) for name in inputs.scored},
        "metrics": {
            name: {model_name: round(output.metrics[name][0], 3) for model_name, output in outputs.items()}
            for name in outputs["16 bit"].metrics
        },
    }


def perplexities(name: str, outputs: dict[str, ModelOutputs]) -> dict[str, float]:
    exact, rounded, awq = (perplexity(output.nll[name]) for output in outputs.values())
    share = (awq - exact) / (rounded - exact)
    return {"16 bit": round(exact, 2), "rounded": round(rounded, 2), "AWQ": round(awq, 2), "share": round(share, 2)}


def with_noise(model: Path, out: Path, share: float, seed: int) -> Path:
    """A copy of the model with noise on each matrix of its layers, at this share of the matrix's standard deviation."""
    shutil.copytree(model, out)
    generator = torch.Generator().manual_seed(seed)
    for file in sorted(out.glob("*.safetensors")):
        tensors = load_file(file)
        for name in sorted(name for name, tensor in tensors.items() if is_layer_matrix(name, tensor.shape)):
            weight = tensors[name].float()
            noise = share * weight.std() * torch.randn(weight.shape, generator=generator)
            tensors[name] = (weight + noise).to(tensors[name].dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    return out


def fine_tuned(model: Path, out: Path, calibration: Path, text: Path, steps: int, seed: int) -> Path:
    """A copy of the model after full fine-tuning. Text and notes alternate, so that it still knows the notes."""
    shutil.copytree(model, out)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").to(device)
    sources = [
        list(windows(tokenizer(text.read_text(encoding="utf-8"), verbose=False)["input_ids"], TOKENS)),
        read_calibration(calibration, tokenizer, seed=seed, length=TOKENS).blocks,
    ]
    optimizer = torch.optim.AdamW(trained.parameters(), lr=LEARNING_RATE)
    for step in range(steps):
        source = sources[step % len(sources)]
        ids = torch.tensor([source[int(torch.randint(len(source), ()))]], device=device)
        with torch.autocast(device, torch.bfloat16):
            loss = trained(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}", file=sys.stderr)
    trained.to(torch.bfloat16).save_pretrained(out)
    return out


def random_llama(folder: Path, options: argparse.Namespace) -> Path:
    """About `random` billion parameters, in layers shaped like Llama 3.2's; with the embedded base's tokenizer."""
    width = options.width
    per_layer = 4 * width * width + 3 * width * 4 * width
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3072,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=max(1, round(options.random * 1e9 / per_layer)),
        num_attention_heads=16,
        num_key_value_heads=16,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).half().save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return folder


def show(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
