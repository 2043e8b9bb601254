"""How fast `dlm_trl.notes` reads, against the reference reader: `python benchmarks/parse.py` prints three ratios.

Times what a dataset needs: open the file, parse it, and extract every pair and triple. Three seeded corpora of more
than 6 MB: large prose, mixed, and tiny sections. The first run installs the reference (`document-language-model`
0.10.0) into its own environment, `.venv-reference/`.

To be fair, both readers run in fresh processes of the same Python, with the same pydantic and PyYAML, and start-up and
imports aren't timed. The processes take turns, and a ratio is the median over the rounds of CPU seconds (wall time
would depend on other load). Both must return the same number of sections and the same texts. Section ids, which only
ours computes on demand, are left out for both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from time import process_time

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "document-language-model==0.10.0"
ENVIRONMENT = ROOT / ".venv-reference"
SIZE = 6_500_000
RUNS = 11

HEAD = "---\ndlm_id: 01JTRX0000000000000000000A\ndlm_version: 15\nbase_model: tiny\n---\n\n"
WORDS = [
    *("water", "stone", "river", "letter", "morning", "garden", "window", "paper", "silver", "market", "winter"),
    *("engine", "island", "simple", "quiet", "early", "narrow", "heavy", "bright", "follow", "gather", "measure"),
    *("remember", "carry", "between", "under", "behind", "during", "always", "seldom", "because", "of", "a", "the"),
]


def main() -> None:
    """Make the corpora, run the readers in turn, print the ratios; exits with 1 if the readers disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", choices=["ours", "reference"], help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(READERS[arguments.worker](), arguments.corpus)))
        return

    interpreters = {"ours": sys.executable, "reference": reference_python()}
    print(f"{'corpus':<14} {'MB':>5} {'sections':>9} {'reference s':>12} {'ours s':>8} {'ours MB/s':>10} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in CORPORA.items():
            corpus = Path(folder, f"{name}.dlm")
            corpus.write_text(make(random.Random(0)), "utf-8")
            seconds: dict[str, list[float]] = {reader: [] for reader in interpreters}
            contents = set()
            for _ in range(RUNS):
                for reader, python in interpreters.items():
                    command = [python, __file__, "--worker", reader, "--corpus", str(corpus)]
                    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
                    seconds[reader].append(result["seconds"])
                    contents.add((result["sections"], result["texts"]))
            if len(contents) != 1:
                sys.exit(f"{name}: the readers disagree about the content")
            ours, reference = (statistics.median(seconds[reader]) for reader in ("ours", "reference"))
            ratio = statistics.median(r / o for o, r in zip(seconds["ours"], seconds["reference"], strict=True))
            megabytes = corpus.stat().st_size / 1e6
            print(
                f"{name:<14} {megabytes:5.1f} {contents.pop()[0]:9,} {reference:12.3f} {ours:8.3f} "
                f"{megabytes / ours:10.0f} {ratio:6.1f}x"
            )


def reference_python() -> str:
    """The interpreter of the reference's environment, which the first call creates."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").exists():
        print(f"Installing {REFERENCE} into {ENVIRONMENT.name}/ …", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"pydantic=={version('pydantic')}", f"pyyaml=={version('pyyaml')}"], check=True)
        subprocess.run([*pip, "--no-deps", REFERENCE], check=True)
        (ENVIRONMENT / "ready").touch()
    return str(python)


Texts = Iterator[tuple[str, ...]]
Reader = Callable[[Path], tuple[int, Texts]]


def our_reader() -> Reader:
    """Ours: takes a path, returns the number of sections and the texts of pairs and triples."""
    sys.path.insert(0, str(ROOT))
    from dlm_trl.notes import Document, read

    def texts(document: Document) -> Texts:
        for section in document.sections:
            if section.kind == "instruction":
                for pair in section.pairs():
                    yield pair.question, pair.answer
            elif section.kind == "preference":
                for triple in section.triples():
                    yield triple.prompt, triple.chosen, triple.rejected

    def run(path: Path) -> tuple[int, Texts]:
        document = read(path)
        return len(document.sections), texts(document)

    return run


def reference_reader() -> Reader:
    """The reference: takes a path, returns the number of sections and the texts of pairs and triples."""
    from dlm.data.instruction_parser import parse_instruction_body
    from dlm.data.preference_parser import parse_preference_body
    from dlm.doc.parser import ParsedDlm, parse_file

    def texts(document: ParsedDlm) -> Texts:
        for section in document.sections:
            if section.type.value == "instruction":
                for pair in parse_instruction_body(section.content, section_id=""):
                    yield pair.question, pair.answer
            elif section.type.value == "preference":
                for triple in parse_preference_body(section.content, section_id=""):
                    yield triple.prompt, triple.chosen, triple.rejected

    def run(path: Path) -> tuple[int, Texts]:
        document = parse_file(path)
        return len(document.sections), texts(document)

    return run


READERS: dict[str, Callable[[], Reader]] = {"ours": our_reader, "reference": reference_reader}


def measure(reader: Reader, corpus: Path) -> dict[str, float | int | str]:
    """Read once, timed; `texts` in the result is a digest of all texts."""
    start = process_time()
    sections, texts = reader(corpus)
    contents = list(texts)
    seconds = process_time() - start
    return {"seconds": seconds, "sections": sections, "texts": hashlib.sha256(repr(contents).encode()).hexdigest()}


def sentence(rng: random.Random, words: int) -> str:
    """One line with this many words."""
    return f"{' '.join(rng.choices(WORDS, k=words)).capitalize()}."


def paragraphs(rng: random.Random, lines: int) -> str:
    """Prose with this many lines, and a blank one after every eighth."""
    return "\n".join(sentence(rng, 12) + "\n" * (i % 8 == 7) for i in range(lines))


def instruction(rng: random.Random, pairs: int, words: int, marker: str = "") -> str:
    """An instruction section. No blank line inside a body, because this version of the reference would end it there."""
    blocks = (f"### Q\n{sentence(rng, words)}\n### A\n{sentence(rng, 2 * words)}\n" for _ in range(pairs))
    return f"::instruction::\n{marker}{''.join(blocks)}"


def preference(rng: random.Random) -> str:
    """A preference section with one triple."""
    return "::preference::\n" + "".join(f"### {h}\n{sentence(rng, 12)}\n" for h in ("Prompt", "Chosen", "Rejected"))


def filled(part: Callable[[], str]) -> str:
    """A document made of parts, of SIZE bytes or a little more."""
    parts, size = [HEAD], len(HEAD)
    while size < SIZE:
        parts.append(part())
        size += len(parts[-1])
    return "".join(parts)


def large_prose(rng: random.Random) -> str:
    """Prose sections of about 70 kB."""
    return filled(lambda: f"::prose::\n{paragraphs(rng, 1000)}\n")


def mixed(rng: random.Random) -> str:
    """Typical notes, repeated: prose, code, three pairs by a teacher, four by hand, one triple."""

    def part() -> str:
        marker = (
            '<!-- dlm-auto-synth: synth_teacher="hf:org/name" synth_strategy="extraction" '
            f'synth_at="2026-04-24T10:18:42Z" source_section_id="{rng.getrandbits(64):016x}" -->'
        )
        prose = f"::prose::\n{paragraphs(rng, 36)}\n```py\nx = 1\n::instruction::\n```\n"
        written = "".join(instruction(rng, 1, 8, marker + "\n") for _ in range(3))
        return prose + written + instruction(rng, 4, 12) + preference(rng)

    return filled(part)


def tiny_sections(rng: random.Random) -> str:
    """One short pair per section."""
    return filled(lambda: instruction(rng, 1, 4))


CORPORA = {"large prose": large_prose, "mixed": mixed, "tiny sections": tiny_sections}

if __name__ == "__main__":
    main()
