"""A task's rows on disk, to train on as often as wanted: those that an online run would write in its steps.

    python recipes/synthesize_task.py --task mcsb --base_model tiny --n 100000 --out runs/mcsb_rows
    accelerate launch recipes/synthesize_task.py --task mcsb --teacher hf:org/name --n 100000 --out runs/mcsb_rows
    python recipes/sft.py --task_rows runs/mcsb_rows --base_model tiny --output_dir runs/mcsb

The teacher `base` is the base itself and writes what the frozen base of an online run with the same seed writes; any
other teacher is asked as in such a run. Under `accelerate launch` the steps are shared out: each process writes a
shard, as long as there are steps. A run that was stopped, or killed, goes on when it is started again with the same
settings.

The folder is a dataset: load_dataset("runs/mcsb_rows", split="train"). Every setting: --help.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from accelerate import PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import HfArgumentParser, PreTrainedTokenizerBase

from dlm_trl.models.load import context_length, load_base, load_config, load_tokenizer
from dlm_trl.models.precision import inference_dtype
from dlm_trl.models.ranks import is_main, map_over_ranks
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import DlmError, UsageError
from dlm_trl.online import rows_on_disk
from dlm_trl.online.authors import AskedTeacher, Author, FrozenBase
from dlm_trl.online.dataset_card import counts
from dlm_trl.online.rows import ATTEMPTS
from dlm_trl.online.rows_folder import Settings, claim, digest, progress, vocabulary
from dlm_trl.tasks.load import load_tasks, read_stages
from dlm_trl.tasks.protocol import Task
from dlm_trl.teachers.load import content_hash, inspect_teacher, load_teacher

SECONDS = 10.0  # between two lines of progress, where there is no terminal


def _setting(default: object, help: str) -> object:
    return field(default=default, metadata={"help": help})


@dataclass
class Arguments:
    """What to write, by whom, and where to."""

    task: str = field(metadata={"help": "mcsb, arithmetic, prose_qa, or FILE.py:NAME for your own task."})
    n: int = field(metadata={"help": "Rows to write. One that every attempt fails at is left out, as it is online."})
    out: str = field(metadata={"help": "The folder for them."})
    stages: str | None = _setting(
        None,
        "The task's options, as a JSON list of mappings: one for each stage. The steps are divided evenly among the "
        "stages, in this order; an online run moves on when the model is good enough, which is not known here. "
        "Unset: one stage with the task's defaults.",
    )
    notes: list[str] = field(default_factory=list, metadata={"help": "The documents, for prose_qa."})
    base_model: str | None = _setting(
        None, "Whose tokens the rows are made of: tiny, a key such as smollm2-135m, hf:org/name, or a local folder. "
        "Unset: the one of the notes; without notes tiny."
    )  # fmt: skip
    chat_template_path: str | None = _setting(None, "A chat template for a base that has none: a Jinja file.")
    quantization: Literal["4bit", "8bit"] | None = _setting(None, "Load base and local teacher in 4 or 8 bit.")
    teacher: str = _setting(
        "base", "Who writes: base, self (the notes' trained adapter), hf:…, openai:…, anthropic:…, vllm-server:…."
    )
    concurrency: int = _setting(16, "Requests in flight to a teacher's server.")
    seed: int = _setting(42, "The same seed gives an online run the same rows.")
    rows_per_step: int = _setting(
        160, "Rows of one step of the online run; they are written together. More keep a server busier."
    )
    attempts: int = _setting(ATTEMPTS, "How often a row is drawn anew when it is rejected, the first time included.")
    max_length: int = _setting(2048, "Longest row, in tokens; at most what the base has positions for.")


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.", hint="--help lists all settings.")


def main(argv: list[str]) -> None:
    """Write. Raises DlmError for what is wrong with the input, before any weight is loaded."""
    # 1. What to write, and whether it can be done. No weights yet.
    said = read_arguments(argv)
    folder = Path(said.out)
    documents = [read(path) for path in said.notes]
    said.base_model = said.base_model or (documents[0].frontmatter.base_model if documents else "tiny")
    tokenizer = load_tokenizer(said.base_model, said.chat_template_path)
    tasks = load_tasks(said.task, read_stages(said.stages), tokenizer=tokenizer, documents=documents)
    settings = settings_of(said, documents, tokenizer)
    for task in tasks:
        rows_on_disk.check_task(task, settings, tokenizer)
    (settings,) = map_over_ranks([settings], lambda new: [claim(folder, one) for one in new])  # one process does it
    if is_main():
        print(f"{settings.n:,} rows of {settings.task} for {settings.base_model}, written by {settings.teacher}")

    # 2. Each process writes its shard; a run that goes on with fewer or more of them has as many shards as before.
    def write(shards: Sequence[int]) -> list[None]:
        done = sum(progress(folder, settings, shard).steps for shard in shards)
        steps = sum(len(settings.steps_of(shard)) for shard in shards)
        if done < steps:
            author, tasks = open_author(said, settings, documents, tokenizer)
            with watched(done, steps) as on_step:
                for shard in shards:
                    rows_on_disk.write_shard(folder, settings, shard, tasks, author, tokenizer, on_step)
        return [None for _ in shards]

    map_over_ranks(range(settings.shards), write)

    # 3. What came out.
    if is_main():
        rows_on_disk.finish(folder, settings)
        done = progress(folder, settings)
        print(f"{folder}: {done.rows:,} rows of {settings.n:,}, {done.tokens:,} tokens, {done.bytes / 2**20:.1f} MiB")
        print(f"rejected drafts: {counts(done.rejected)}")


def read_arguments(argv: list[str]) -> Arguments:
    """The command line, its numbers checked. Raises DlmError (UsageError)."""
    try:
        (said,) = _Parser(Arguments, allow_abbrev=False).parse_args_into_dataclasses(args=argv)
    except ValueError as error:  # what the parser says of unknown settings
        raise UsageError(f"{error}.", hint="--help lists all settings.") from None
    for name in ("n", "rows_per_step", "attempts", "max_length", "concurrency"):
        if getattr(said, name) < 1:
            raise UsageError(f"{name} is {getattr(said, name)}.", hint="Give 1 or more.")
    if said.teacher == "self" and not said.notes:
        raise UsageError("The teacher self is the adapter of a document.", hint="Name it: --notes.")
    return said


def settings_of(said: Arguments, documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> Settings:
    """All that decides the rows. Raises DlmError for a base or teacher that cannot be had."""
    config = load_config(said.base_model)
    context = context_length(config)
    source = ModelRef(said.base_model).resolve()
    files = [*said.notes, *([said.task.rpartition(":")[0]] if ":" in said.task else [])]
    read_too = [(Path(file).name, Path(file).read_bytes()) for file in files]
    if said.chat_template_path:
        read_too.append(("chat template", tokenizer.chat_template.encode()))
    settings = Settings(
        task=said.task,
        stages=read_stages(said.stages),
        n=said.n,
        rows_per_step=said.rows_per_step,
        seed=said.seed,
        attempts=said.attempts,
        max_length=min(said.max_length, context or said.max_length),
        base_model=said.base_model,
        base_revision=content_hash(Path(source)) if Path(source).is_dir() else config._commit_hash or "",
        vocabulary=vocabulary(tokenizer),
        dtype=str(inference_dtype(config)).removeprefix("torch."),
        quantization=said.quantization,
        teacher=said.teacher,
        teacher_revision="" if said.teacher == "base" else inspect_teacher(said.teacher, first(documents)).revision,
        files=[f"{name} ({digest(data)})" for name, data in read_too],
        shards=int(os.environ.get("WORLD_SIZE", "1")),
    )
    settings = replace(settings, shards=min(settings.shards, settings.steps))  # none without a step
    if settings.steps < len(settings.stages):
        raise UsageError(
            f"{len(settings.stages)} stages cannot be spread over {settings.steps} steps.",
            hint="Write more rows, or fewer a step.",
        )
    return settings


def open_author(
    said: Arguments, settings: Settings, documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase
) -> tuple[Author, list[Task]]:
    """Who writes, and the task of each stage; near distractors need the base's embeddings whoever writes."""
    base = embeddings = None
    if said.teacher == "base" or any(stage.get("distractors") == "near" for stage in settings.stages):
        base = load_base(said.base_model, settings.dtype, settings.quantization)
        embeddings = base.get_input_embeddings().weight.detach().float().cpu()
    tasks = load_tasks(said.task, settings.stages, tokenizer=tokenizer, documents=documents, embeddings=embeddings)
    if said.teacher == "base":
        return FrozenBase(base if settings.quantization else base.to(PartialState().device), tokenizer), tasks
    return AskedTeacher(load_teacher(said.teacher, first(documents), settings.quantization, said.concurrency)), tasks


def first(documents: Sequence[Document]) -> Document | None:
    """The document whose adapter the teacher `self` is; no other teacher looks at it."""
    return documents[0] if documents else None


@contextmanager
def watched(done: int, steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Progress of the first process, on stderr: a bar in a terminal, else a line every ten seconds."""
    console = Console(stderr=True, quiet=not is_main())
    columns = TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TextColumn("steps, {task.fields[rate]}")
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    shown = bar.add_task("writing", total=steps, completed=done, rate="")
    started = last = time.monotonic()
    rows = 0

    def on_step(line: Mapping[str, Any]) -> None:
        nonlocal last, done, rows
        done, rows, now = done + 1, rows + line["rows"], time.monotonic()
        rate = f"{rows / (now - started):.1f} rows/s"
        bar.update(shown, completed=done, rate=rate)
        if not console.is_terminal and now - last > SECONDS:
            last = now
            console.print(f"writing: {done} of {steps} steps, {rate}")

    with bar:
        yield on_step


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DlmError as error:
        sys.exit(str(error) if is_main() else 1)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was" if is_main() else 130)
