"""How fast rows stream out of `load_dataset`, and whether memory stays flat: `python benchmarks/builder.py`.

Writes documents of about 6.5 MB until `--megabytes` is reached. Streams them through the builder, row by row and in
batches of 1000, and through the reference's row builder (`document-language-model` 0.10.0 in its own environment, see
`benchmarks/parse.py`). Each reader reads each kind of rows in a fresh process; its CPU seconds are counted after the
imports. All readers return rows as Python objects, ours with twelve columns of provenance and the reference's with two,
and must return the same texts. Prints MB/s, the process's peak memory, and its memory at points along the stream.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from typing import Any

from parse import ROOT, mixed, reference_python

KINDS = ("messages", "prose", "preference")
SAMPLES = 5


def main() -> None:
    """Write the documents, stream them with each reader, print the table; exits with 1 if the rows differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=2000, help="total size of the documents")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of rows to read")
    parser.add_argument("--worker", choices=list(READERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker, arguments.folder, arguments.kinds[0])))
        return

    interpreters = dict.fromkeys(READERS, sys.executable) | {"reference": reference_python()}
    with tempfile.TemporaryDirectory() as folder:
        megabytes = write_documents(Path(folder), arguments.megabytes)
        print(f"{megabytes:.0f} MB of documents")
        print(
            f"{'rows':<11} {'count':>10} {'reader':<13} {'MB/s':>6} {'ratio':>6} {'peak MB':>8}   MB along the stream"
        )
        for kind in arguments.kinds:
            results = {}
            for reader in READERS:
                command = [interpreters[reader], __file__, "--worker", reader, "--folder", folder, "--kinds", kind]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout
                results[reader] = result = json.loads(output)
                ratio = results["reference"]["seconds"] / result["seconds"]
                memory = " ".join(f"{sample:.0f}" for sample in result["memory"])
                print(
                    f"{kind:<11} {result['rows']:>10,} {reader:<13} {megabytes / result['seconds']:>6.0f} "
                    f"{ratio:>5.1f}x {result['peak']:>8.0f}   {memory}"
                )
            if len({(result["rows"], result["characters"]) for result in results.values()}) != 1:
                sys.exit(f"{kind}: the rows differ")


def write_documents(folder: Path, megabytes: int) -> float:
    """Write documents that differ in their first paragraph; returns their total size in MB."""
    text = mixed(random.Random(0))
    head, body = text.split("::prose::\n", 1)
    size = 0
    for index in range(max(1, round(megabytes * 1e6 / len(text)))):
        document = f"{head}::prose::\nDocument {index}.\n{body}"
        (folder / f"{index:05d}.dlm").write_text(document, "utf-8")
        size += len(document)
    return size / 1e6


def measure(reader: str, folder: Path, kind: str) -> dict[str, Any]:
    """Read all rows of one kind. Memory in MB, sampled at equal shares of the documents, at the end and at the peak."""
    files = sorted(map(str, folder.glob("*.dlm")))
    marks = {files[len(files) * i // SAMPLES] for i in range(SAMPLES)}
    memory: list[float] = []
    rows = characters = 0
    stream = READERS[reader](kind)
    start = process_time()
    for file, row in stream(files):
        if file in marks:
            marks.remove(file)
            memory.append(resident())
        rows += 1
        characters += length(row)
    seconds = process_time() - start
    memory.append(resident())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": seconds, "rows": rows, "characters": characters, "memory": memory, "peak": peak}


Rows = Callable[[list[str]], Iterator[tuple[str, dict[str, Any]]]]


def ours(kind: str) -> Rows:
    """The rows that `load_dataset` streams, each with its file."""
    load = our_stream(kind)

    def rows(files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in load(files):
            yield row["source_file"], row

    return rows


def ours_batched(kind: str) -> Rows:
    """The same rows, read from the stream a thousand at a time, as `map` does."""
    load = our_stream(kind)

    def rows(files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for batch in load(files).iter(batch_size=1000):
            for index, file in enumerate(batch["source_file"]):
                yield file, {column: values[index] for column, values in batch.items()}

    return rows


def our_stream(kind: str) -> Callable[[list[str]], Any]:
    """A function that opens documents as a streaming dataset."""
    sys.path.insert(0, str(ROOT))
    from datasets import load_dataset

    import dlm_trl  # noqa: F401 (registers the builder)

    return lambda files: load_dataset("dlm_trl/dlm", kind, data_files=files, split="train", streaming=True)


def reference(kind: str) -> Rows:
    """The reference's rows of one kind, each with its file."""
    from dlm.data.sections_to_rows import sections_to_rows
    from dlm.doc.parser import parse_file

    column = {"messages": "messages", "prose": "text", "preference": "chosen"}[kind]

    def rows(files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for file in files:
            for row in sections_to_rows(parse_file(Path(file)).sections):
                if column in row:
                    yield file, row

    return rows


READERS: dict[str, Callable[[str], Rows]] = {"reference": reference, "ours": ours, "ours, batched": ours_batched}


def length(row: dict[str, Any]) -> int:
    """Characters in a row's texts, whether plain or in messages."""
    texts = [row[column] for column in ("text", "messages", "prompt", "chosen", "rejected") if column in row]
    return sum(
        len(text) if isinstance(text, str) else sum(len(message["content"]) for message in text) for text in texts
    )


def resident() -> float:
    """Memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
