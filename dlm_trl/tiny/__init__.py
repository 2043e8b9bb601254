"""The embedded base model: a small Llama with its tokenizer and chat template; everything runs with no download.

`path()` is a folder that `AutoModelForCausalLM.from_pretrained` takes; `base_model: tiny` in a document names it.
What the model can do and how it was built stands in the card beside the weights (`README.md`);
`scripts/build_tiny_base.py` builds it.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder with the model's weights, tokenizer, chat template, word list and card."""
    return Path(__file__).parent
