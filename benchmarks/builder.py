"""How fast rows stream out of `load_dataset`, and whether memory stays flat: `python benchmarks/builder.py`.

Documents of about 6.5 MB are written until `--megabytes` is reached, then streamed through the builder, row by row and
in batches of 1000, and read again through the reference's row builder (`document-language-model` 0.10.0 in an
environment of its own, see `benchmarks/parse.py`). Each reading of one kind of rows is a fresh process, timed by
the CPU seconds that it takes after its imports. All give every row as Python objects, ours with twelve columns of
provenance and the reference's with two, and must give the same texts. Printed are MB/s, the peak of the process's
memory, and the memory along the stream.
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
    """Make the documents, stream them by both, print the table; exits 1 where the rows differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=2000, help="size of all documents together")
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
            found = {}
            for reader in READERS:
                command = [interpreters[reader], __file__, "--worker", reader, "--folder", folder, "--kinds", kind]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout
                found[reader] = result = json.loads(output)
                ratio = found["reference"]["seconds"] / result["seconds"]
                memory = " ".join(f"{sample:.0f}" for sample in result["memory"])
                print(
                    f"{kind:<11} {result['rows']:>10,} {reader:<13} {megabytes / result['seconds']:>6.0f} "
                    f"{ratio:>5.1f}x {result['peak']:>8.0f}   {memory}"
                )
            if len({(result["rows"], result["characters"]) for result in found.values()}) != 1:
                sys.exit(f"{kind}: the rows differ")


def write_documents(folder: Path, megabytes: int) -> float:
    """Documents in this folder, each with its own first paragraph; returns their size in MB."""
    text = mixed(random.Random(0))
    head, body = text.split("::prose::\n", 1)
    size = 0
    for index in range(max(1, round(megabytes * 1e6 / len(text)))):
        document = f"{head}::prose::\nDocument {index}.\n{body}"
        (folder / f"{index:05d}.dlm").write_text(document, "utf-8")
        size += len(document)
    return size / 1e6


def measure(reader: str, folder: Path, kind: str) -> dict[str, Any]:
    """One reading of all rows of a kind; memory in MB, sampled at equal shares of the documents and at the peak."""
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
    """The rows as `load_dataset` streams them, each with its file."""
    load = our_stream(kind)

    def rows(files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in load(files):
            yield row["source_file"], row

    return rows


def ours_batched(kind: str) -> Rows:
    """The same rows, taken from the stream a thousand at a time, as `map` and `iter` do."""
    load = our_stream(kind)

    def rows(files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for batch in load(files).iter(batch_size=1000):
            for index, file in enumerate(batch["source_file"]):
                yield file, {column: values[index] for column, values in batch.items()}

    return rows


def our_stream(kind: str) -> Callable[[list[str]], Any]:
    """Opens documents as a streaming dataset."""
    sys.path.insert(0, str(ROOT))
    from datasets import load_dataset

    import dlm_trl  # noqa: F401 (registers the builder)

    return lambda files: load_dataset("dlm_trl/dlm", kind, data_files=files, split="train", streaming=True)


def reference(kind: str) -> Rows:
    """The rows that the reference makes of each file, those of one kind."""
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
    """Characters in a row's texts, whether they stand alone or as messages."""
    texts = [row[column] for column in ("text", "messages", "prompt", "chosen", "rejected") if column in row]
    return sum(
        len(text) if isinstance(text, str) else sum(len(message["content"]) for message in text) for text in texts
    )


def resident() -> float:
    """What this process holds in memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
