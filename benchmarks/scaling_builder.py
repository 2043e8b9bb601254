"""`load_dlm` on many documents, with `num_proc` 1 and 2: `python benchmarks/scaling_builder.py`.

Each load is a fresh process with an empty cache, with the files given as a pattern (or as a folder: `--by folder`).
Rows per second count the whole load, from finding the files to the dataset; memory is the peak of the process and of
the largest of its workers, interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = "---\ndlm_id: 01K9SCA{:019d}\ndlm_version: 15\nbase_model: tiny\n---\n"
PROSE = "The quay of hall {} was built of oak in the second year of the harbour. It is tarred every spring.\n"
PAIR = "\n::instruction::\n### Q\nWhat is part {} of hall {} made of?\n### A\nOak, which is tarred every spring.\n"


def write_folder(folder: Path, documents: int, pairs: int) -> int:
    """Documents with some prose and `pairs` pairs each, a thousand in each subfolder; returns the bytes written."""
    size = 0
    for number in range(documents):
        if number % 1000 == 0:
            part = folder / f"{number // 1000:04d}"
            part.mkdir(parents=True)
        asked = "".join(PAIR.format(i, number) for i in range(pairs))
        size += (part / f"{number:06d}.dlm").write_text(HEAD.format(number) + PROSE.format(number) + asked)
    return size


def load(folder: Path, cache: Path, num_proc: int | None, by: str = "pattern") -> dict[str, float]:
    """Load the documents in this process; seconds, CPU seconds, and memory in MB."""
    import datasets

    from dlm_trl import load_dlm

    datasets.disable_progress_bars()
    began, cpu = time.perf_counter(), sum(os.times()[:4])
    files = {"data_dir": folder} if by == "folder" else {"data_files": f"{folder}/**/*.dlm"}
    rows = load_dlm(**files, split="train", num_proc=num_proc, cache_dir=cache)
    seconds = time.perf_counter() - began
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    spent = sum(os.times()[:4]) - cpu
    return {"rows": len(rows), "seconds": seconds, "cpu": spent, "process": peaks[0], "worker": peaks[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--pairs", type=int, default=10, help="per document (default: %(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="num_proc (default: %(default)s)")
    parser.add_argument("--by", choices=["pattern", "folder"], default="pattern")
    parser.add_argument("--folder", type=Path, help="create the temporary folder here")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "CACHE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, cache = map(Path, options.worker)
        print(json.dumps(load(folder, cache, options.processes[0], options.by)))
        return
    print("| documents | MB | num_proc | rows | rows/s | ratio | ms per document | CPU s | process, MB | worker, MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for documents in options.documents:
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            size = write_folder(Path(scratch, "documents"), documents, options.pairs)
            base = 0.0
            for processes in options.processes:
                arguments = ["--worker", f"{scratch}/documents", f"{scratch}/cache-{processes}"]
                command = [sys.executable, __file__, *arguments, "--processes", str(processes), "--by", options.by]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
                run = json.loads(done.stdout.splitlines()[-1])
                base = base or run["seconds"]
                print(
                    f"| {documents:,} | {size / 1e6:.0f} | {processes} | {run['rows']:,.0f} "
                    f"| {run['rows'] / run['seconds']:,.0f} | {base / run['seconds']:.2f} "
                    f"| {run['seconds'] / documents * 1000:.2f} | {run['cpu']:.1f} "
                    f"| {run['process']:.0f} | {run['worker']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
