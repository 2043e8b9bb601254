"""Tokens per second of batched generation, against the limit of memory bandwidth: `python benchmarks/generation.py`.

    python benchmarks/generation.py --hidden 2048 --layers 16 --heads 32 --rows 16 160        # on a GPU

A Llama with random weights, or `--base_model`, continues `--rows` prompts by `--tokens` tokens each. A forward pass
reads every weight once, so generation can't be faster than passes × bytes of weights / bandwidth; `share` is that time
as a share of the time taken. Keys and values aren't counted. The bandwidth is that of a copy on the same device.
Prints one line of JSON per number of rows.
"""

import argparse
import json
import os
import time

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from dlm_trl.models.generate import generate_batches
from dlm_trl.models.load import load_base, load_tokenizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def now() -> float:
    """Seconds, after all pending work."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def copied_bytes_per_second() -> float:
    """The memory bandwidth of a copy, which reads and writes."""
    one, other = (torch.empty(2**30 if DEVICE == "cuda" else 2**27, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    fastest = float("inf")
    for _ in range(20):
        started = now()
        one.copy_(other)
        fastest = min(fastest, now() - started)
    return 2 * one.numel() / fastest


def load(options: argparse.Namespace) -> PreTrainedModel:
    """The base model, or a Llama with random weights and the embedded base's vocabulary."""
    if options.base_model:
        return load_base(options.base_model, DTYPE).to(DEVICE).eval()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(load_tokenizer("tiny")),
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        tie_word_embeddings=True,
    )
    with torch.device(DEVICE):
        return LlamaForCausalLM(config).to(DTYPE).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"hidden": 256, "layers": 4, "heads": 4, "tokens": 32, "prompt": 64, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--base_model", help="a base model, as in a document, instead of random weights")
    options = parser.parse_args()
    model, tokenizer = load(options), load_tokenizer(options.base_model or "tiny")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    bandwidth = copied_bytes_per_second()
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    model.register_forward_hook(count)
    for rows in options.rows:
        generator = torch.Generator().manual_seed(rows)
        prompts = torch.randint(10, len(tokenizer) - 1, (rows, options.prompt), generator=generator).tolist()
        best: dict[str, float] = {}
        for _ in range(options.rounds + 1):  # the first one includes one-time costs
            passes, started = 0, now()
            batches = generate_batches(model, tokenizer, prompts, options.tokens, token_budget=2**62)
            new = sum(row.new_tokens for batch in batches for row in batch)
            seconds = now() - started
            found = {"rate": new / seconds, "share": passes * weights / bandwidth / seconds, "passes": passes}
            best = max(best or found, found, key=lambda one: one["rate"])
        print(
            json.dumps(
                {
                    "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
                    "weights_gb": round(weights / 1e9, 3),
                    "bandwidth_gb_per_second": round(bandwidth / 1e9, 1),
                    "rows": rows,
                    "tokens_per_second": round(best["rate"]),
                    "passes": best["passes"],
                    "share": round(best["share"], 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
