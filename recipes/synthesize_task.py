"""Write a task's rows to disk, the same rows that an online run would write, to train on them as often as you like.

    python recipes/synthesize_task.py --task mcsb --base_model tiny --n 100000 --out runs/mcsb_rows
    accelerate launch recipes/synthesize_task.py --task mcsb --teacher hf:org/name --n 100000 --out runs/mcsb_rows
    python recipes/sft.py --task_rows runs/mcsb_rows --base_model tiny --output_dir runs/mcsb

The teacher `base` is the base model itself, like the frozen base of an online run with the same seed. Any other teacher
gets the same prompts as in an online run. `accelerate launch` divides the steps among processes, and each writes a
shard. Rerun the same command to resume a run that was stopped or killed.

The folder is a dataset: load_dataset("runs/mcsb_rows", split="train"). --help lists all settings.
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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import HfArgumentParser, PreTrainedTokenizerBase

from dlm_trl.models.load import context_length, load_base, load_config, load_tokenizer
from dlm_trl.models.precision import inference_dtype
from dlm_trl.models.ranks import is_main, map_over_ranks
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import DlmError, UsageError
from dlm_trl.notes.terminal import console, logging_to_stderr, say
from dlm_trl.online import rows_on_disk
from dlm_trl.online.authors import AskedTeacher, Author, FrozenBase
from dlm_trl.online.dataset_card import counts
from dlm_trl.online.rows import ATTEMPTS
from dlm_trl.online.rows_folder import TaskRowsSettings, claim, digest, progress, vocabulary
from dlm_trl.tasks.load import load_tasks, read_stages
from dlm_trl.tasks.protocol import Task
from dlm_trl.teachers.load import content_hash, inspect_teacher, load_teacher

SECONDS = 10.0  # between two progress lines without a terminal


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class Arguments:
    """What to write, by whom, and where."""

    task: str = field(metadata={"help": "mcsb, arithmetic, prose_qa, span_qa, or FILE.py:NAME for your own task."})
    n: int = field(
        metadata={"help": "Rows to write. A row whose attempts are all rejected is left out, as in an online run."}
    )
    out: str = field(metadata={"help": "Output folder."})
    stages: str | None = _setting(
        None,
        "The task's options as a JSON list, one mapping per stage. The steps are divided evenly among the stages, in "
        "order; an online run moves on when the model is good enough instead. Unset: one stage with the task's "
        "defaults.",
    )
    notes: list[str] = field(default_factory=list, metadata={"help": "Documents, for prose_qa and span_qa."})
    base_model: str | None = _setting(
        None, "The base whose tokenizer encodes the rows: tiny, a key such as smollm2-135m, hf:org/name, or a local "
        "folder. Unset: the base of the notes, or tiny without notes."
    )  # fmt: skip
    chat_template_path: str | None = _setting(None, "Jinja file with a chat template, for a base without one.")
    quantization: Literal["4bit", "8bit"] | None = _setting(None, "Load the base and a local teacher in 4 or 8 bit.")
    teacher: str = _setting(
        "base", "Who writes: base, self (the trained adapter of the notes), hf:…, openai:…, anthropic:…, vllm-server:…."
    )
    concurrency: int = _setting(16, "Requests in flight per server.")
    seed: int = _setting(42, "An online run with the same seed has the same rows.")
    rows_per_step: int = _setting(
        160, "Rows per step of the online run, which are written together. A larger number keeps servers busier."
    )
    attempts: int = _setting(ATTEMPTS, "Attempts per row, counting the first, before a rejected row is left out.")
    max_length: int = _setting(2048, "Maximum length of a row in tokens, capped at the base's context length.")


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.", hint="--help lists all settings.")


def main(argv: list[str]) -> None:
    """Write the rows. Raises DlmError for invalid input before any weights are loaded."""
    # 1. Check the settings. No weights yet.
    args = read_arguments(argv)
    folder = Path(args.out)
    documents = [read(path) for path in args.notes]
    args.base_model = args.base_model or (documents[0].frontmatter.base_model if documents else "tiny")
    tokenizer = load_tokenizer(args.base_model, args.chat_template_path)
    tasks = load_tasks(args.task, read_stages(args.stages), tokenizer=tokenizer, documents=documents)
    settings = settings_of(args, documents, tokenizer)
    for task in tasks:
        rows_on_disk.check_task(task, settings, tokenizer)
    (settings,) = map_over_ranks([settings], lambda new: [claim(folder, one) for one in new])  # one process does it
    if is_main():
        say(f"{settings.n:,} rows of {settings.task} for {settings.base_model}, written by {settings.teacher}")

    # 2. Each process writes its shards. A resumed run keeps the number of shards, however many processes it has.
    def write(shards: Sequence[int]) -> list[None]:
        done = sum(progress(folder, settings, shard).steps for shard in shards)
        steps = sum(len(settings.steps_of(shard)) for shard in shards)
        if done < steps:
            author, tasks = open_author(args, settings, documents, tokenizer)
            with watched(done, steps) as on_step:
                for shard in shards:
                    rows_on_disk.write_shard(folder, settings, shard, tasks, author, tokenizer, on_step)
        return [None for _ in shards]

    map_over_ranks(range(settings.shards), write)

    # 3. Write the dataset card and report.
    if is_main():
        rows_on_disk.finish(folder, settings)
        done = progress(folder, settings)
        say(f"{folder}: {done.rows:,} rows of {settings.n:,}, {done.tokens:,} tokens, {done.bytes / 2**20:.1f} MiB")
        say(f"rejected drafts: {counts(done.rejected)}")


def read_arguments(argv: list[str]) -> Arguments:
    """Parse and check the command line. Raises DlmError (UsageError)."""
    try:
        args: Arguments
        (args,) = _Parser(Arguments, allow_abbrev=False).parse_args_into_dataclasses(args=argv)
    except ValueError as error:  # unknown settings
        raise UsageError(f"{error}.", hint="--help lists all settings.") from None
    for name in ("n", "rows_per_step", "attempts", "max_length", "concurrency"):
        if getattr(args, name) < 1:
            raise UsageError(f"{name} is {getattr(args, name)}.", hint="Use 1 or more.")
    if args.teacher == "self" and not args.notes:
        raise UsageError("The teacher self is the adapter of a document.", hint="Name the document: --notes.")
    return args


def settings_of(args: Arguments, documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> TaskRowsSettings:
    """Everything that decides the rows. Raises DlmError for a base or teacher that can't be used."""
    assert args.base_model is not None  # set in main
    config = load_config(args.base_model)
    context = context_length(config)
    location = ModelRef(args.base_model).resolve()
    files = [*args.notes, *([args.task.rpartition(":")[0]] if ":" in args.task else [])]
    inputs = [(Path(file).name, Path(file).read_bytes()) for file in files]
    if args.chat_template_path:
        inputs.append(("chat template", tokenizer.chat_template.encode()))
    settings = TaskRowsSettings(
        task=args.task,
        stages=[dict(stage) for stage in read_stages(args.stages)],
        n=args.n,
        rows_per_step=args.rows_per_step,
        seed=args.seed,
        attempts=args.attempts,
        max_length=min(args.max_length, context or args.max_length),
        base_model=args.base_model,
        base_revision=content_hash(Path(location)) if Path(location).is_dir() else config._commit_hash or "",
        vocabulary=vocabulary(tokenizer),
        dtype=str(inference_dtype(config)).removeprefix("torch."),
        quantization=args.quantization,
        teacher=args.teacher,
        teacher_revision="" if args.teacher == "base" else inspect_teacher(args.teacher, first(documents)).revision,
        files=[f"{name} ({digest(data)})" for name, data in inputs],
        shards=int(os.environ.get("WORLD_SIZE", "1")),
    )
    settings = replace(settings, shards=min(settings.shards, settings.steps))  # no shard without a step
    if settings.steps < len(settings.stages):
        raise UsageError(
            f"{len(settings.stages)} stages can't be spread over {settings.steps} steps.",
            hint="Increase n, or lower rows_per_step.",
        )
    return settings


def open_author(
    args: Arguments, settings: TaskRowsSettings, documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase
) -> tuple[Author, list[Task]]:
    """The author, and the task of each stage. Near distractors need the base's embeddings with any author."""
    near = any(stage.get("distractors") == "near" for stage in settings.stages)
    needs_base = args.teacher == "base" or near
    base = load_base(settings.base_model, settings.dtype, args.quantization) if needs_base else None
    embeddings = base.get_input_embeddings().weight.detach().float().cpu() if base is not None else None
    tasks = load_tasks(args.task, settings.stages, tokenizer=tokenizer, documents=documents, embeddings=embeddings)
    if base is not None and args.teacher == "base":
        return FrozenBase(base if args.quantization else base.to(PartialState().device), tokenizer), tasks
    return AskedTeacher(load_teacher(args.teacher, first(documents), args.quantization, args.concurrency)), tasks


def first(documents: Sequence[Document]) -> Document | None:
    """The document whose adapter the teacher `self` uses."""
    return documents[0] if documents else None


@contextmanager
def watched(done: int, steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show the first process's progress on stderr: a bar in a terminal, else a line every ten seconds."""
    out = console(stderr=True, quiet=not is_main())
    columns = TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TextColumn("steps, {task.fields[rate]}")
    bar = Progress(*columns, TimeRemainingColumn(), console=out, disable=not out.is_terminal)
    shown = bar.add_task("writing", total=steps, completed=done, rate="")
    started = last = time.monotonic()
    rows = 0

    def on_step(line: Mapping[str, Any]) -> None:
        nonlocal last, done, rows
        done, rows, now = done + 1, rows + line["rows"], time.monotonic()
        rate = f"{rows / (now - started):.1f} rows/s"
        bar.update(shown, completed=done, rate=rate)
        if not out.is_terminal and now - last > SECONDS:
            last = now
            out.print(f"writing: {done} of {steps} steps, {rate}")

    with bar:
        yield on_step


if __name__ == "__main__":
    try:
        with logging_to_stderr():
            main(sys.argv[1:])
    except DlmError as error:
        sys.exit(str(error) if is_main() else 1)
    except KeyboardInterrupt:
        sys.exit("stopped; rerun the same command to resume" if is_main() else 130)
