"""The command that serves a folder: `vllm_command(Path("runs/awq"), "runs/awq", "--quantization", "awq")`."""

import shlex
from pathlib import Path

from dlm_trl.export.sidecar_files import read_json


def vllm_command(folder: Path, name: str, *options: str) -> str:
    """The command that serves the model with vLLM, as an OpenAI-compatible server.

    name: the path to serve it from. vLLM reserves memory for the whole context, so its length is always given. The
    chat template and the stop tokens come from the folder.
    """
    words = ["vllm", "serve", name, "--served-model-name", Path(name).resolve().name, *options]
    config = read_json(folder / "config.json")
    if context := config.get("text_config", config).get("max_position_embeddings"):
        words += ["--max-model-len", str(context)]
    return shlex.join(words)
