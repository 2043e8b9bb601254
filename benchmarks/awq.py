"""What four bits cost, by AWQ and by plain rounding: `python benchmarks/awq.py runs/notes-merged recipes/notes.dlm`.

    python benchmarks/awq.py MODEL_DIR CALIBRATION [MODEL_DIR CALIBRATION …]
    python benchmarks/awq.py --random 1 recipes/notes.dlm          # a random-weight Llama of 1 B, for time and memory

Needs the extra `quant`, as .venv-quant has it. For each model one line of JSON: seconds to quantise,
perplexity of held-out pieces in 16 bit, rounded and by AWQ with the share of rounding's loss that AWQ loses, each
metric of the run before and after, and bytes. The AWQ paper (Lin et al., MLSys 2024, table 4) has for Llama-2-7B on
WikiText-2: 5.47 in 16 bit, 5.73 rounded, 5.60 by AWQ, groups of 128; so a share of 0.5.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dlm_trl.export.awq import quantize
from dlm_trl.export.verify import verify
from dlm_trl.models import lineage
from dlm_trl.models.load import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL_DIR CALIBRATION", type=Path)
    parser.add_argument("--random", type=float, metavar="BILLIONS", help="a random-weight Llama, then one CALIBRATION")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    versions = {name: version(name) for name in ("autoawq", "gptqmodel", "torch", "transformers")}
    show({"machine": {"device": device, "python": platform.python_version(), **versions}, "seed": options.seed})
    with tempfile.TemporaryDirectory() as scratch:
        pairs = list(zip(options.models[::2], options.models[1::2], strict=False))
        if options.random:
            pairs = [(random_llama(Path(scratch) / "random", options.random), options.models[0])]
        for number, (model, calibration) in enumerate(pairs):
            out = Path(scratch) / f"awq-{number}"
            started = time.perf_counter()
            quantize(model, out, calibration, samples=options.samples, seed=options.seed)
            show({"model": model.name, **measured(model, out, time.perf_counter() - started, bool(options.random))})


def measured(model: Path, out: Path, seconds: float, random: bool) -> dict[str, Any]:
    layers = json.loads((out / "config.json").read_text())["num_hidden_layers"]
    hop = lineage.read(out)[-1]
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    found = {
        "seconds": round(seconds, 1),
        "seconds_per_layer": round(seconds / layers, 1),
        "calibration_tokens": hop["calibration"]["tokens"],
        "bytes": {"before": size, "after": hop["bytes"]["written"], "ratio": round(size / hop["bytes"]["written"], 2)},
        "peak_memory_of_a_child_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9, 2),
    }
    if random:  # weights without meaning have no perplexity worth a word
        return found
    checks = verify(model, out).checks
    return found | {
        "perplexity": {
            check.name.removeprefix("perplexity, "): {
                "16 bit": round(check.before, 3),
                "rounded": round(check.rounding, 3),
                "AWQ": round(check.after, 3),
                "share of the loss": round((check.after - check.before) / (check.rounding - check.before), 2),
            }
            for check in checks
            if check.rounding is not None
        },
        "metrics": {
            check.name: [round(check.before, 3), round(check.after, 3)]
            for check in checks
            if check.name.startswith(("exact match", "F1", "fuzzy match", "mcsb"))
        },
        "failed": [check.name for check in checks if not check.passed],
    }


def random_llama(folder: Path, billions: float) -> Path:
    """As many parameters as asked for, about, in layers of Llama 3.2's shape; the embedded base's tokenizer."""
    width = 2048
    per_layer = 4 * width * width + 3 * width * 4 * width
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3072,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=max(1, round(billions * 1e9 / per_layer)),
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
