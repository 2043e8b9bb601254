"""What several verbs share: exit codes, reading of options, asking a teacher, printing of results."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dlm_trl.models.ranks import is_main
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.terminal import console, say

if TYPE_CHECKING:
    from dlm_trl.synth.settings import SynthSettings

_MIN_COLUMNS = 60  # in a narrower terminal, tables truncate ids and numbers


def misuse_exits_with_2(command: Callable[..., None]) -> Callable[..., None]:
    """Exit with 2 for a UsageError; other errors exit with 1."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UsageError as error:
            say(error, err=True)
            raise typer.Exit(2) from None

    return run


def ask_teacher(paths: list[Path], settings: SynthSettings, apply: bool, dry_run: bool, json_: bool) -> None:
    """Run or estimate these settings for each document, and print the outcomes. Exits with 1 if a request failed."""
    silence_libraries()
    from dlm_trl.synth import show

    if dry_run:
        from dlm_trl.synth.dry_run import estimate

        estimates = [estimate(path, settings) for path in paths]
        show_result(show.as_json(estimates) if json_ else show.estimates(estimates))
        return
    from dlm_trl.synth.run import synthesize_all

    print_each(
        lambda progress: synthesize_all(paths, settings, apply, progress),
        lambda outcome: show.outcome(outcome, settings.filter),
        json_,
    )


def print_each(run: Callable[[Any], Iterable[Any]], shown: Callable[[Any], Any], json_: bool) -> None:
    """Print the outcome of each document once it is there, in words or as an item of a JSON list.

    run: called with the progress display, None in other processes; its outcomes have counts. shown: an outcome in
    words. Exits with 1 if a request failed.
    """
    from dlm_trl.synth.watch import Watch

    has_failed = False
    try:
        with Watch() as watch, json_list() if json_ else nullcontext() as add:
            for outcome in run(watch if is_main() else None):
                has_failed |= outcome.counts.failed > 0
                with watch.hidden():
                    if add:
                        add(outcome)
                    else:
                        show_result(shown(outcome))
    except KeyboardInterrupt:
        say("Stopped. Finished requests are kept: rerun the same command to resume.", err=True)
        raise
    # Only in the first process: the launcher kills the others when one fails, and the first may still be printing.
    if is_main() and has_failed:
        raise typer.Exit(1)


@contextmanager
def json_list() -> Iterator[Callable[[Any], None]]:
    """Print a JSON list, an item per call, because what a folder's documents have may not fit in memory.

    After an error, the list is closed too, with the items so far.
    """
    from dlm_trl.synth.show import as_json

    count = 0

    def add(item: Any) -> None:
        nonlocal count
        show_result(f"{',' if count else '['}\n{as_json(item)}")
        count += 1

    try:
        yield add
    finally:
        show_result("]" if count else "[]")


def silence_libraries() -> None:
    """Silence warnings that libraries print while they load weights; the user can't act on them."""
    if not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def documents(files: list[Path]) -> list[Path]:
    """The files, and the documents in the folders, without repeats."""
    paths: dict[Path, None] = {}
    for file in files:
        if not file.exists():
            raise typer.BadParameter(f"No such file or folder: {str(file)!r}.")
        inside = sorted(path for path in file.rglob("*.dlm") if path.is_file()) if file.is_dir() else [file]
        if not inside:
            raise typer.BadParameter(f"No .dlm files in the folder {str(file)!r}.")
        paths |= dict.fromkeys(inside)
    return list(paths)


def read_prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        prompt, completion = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            "--price takes two numbers, IN,OUT: the price of a million prompt tokens, and of a million new tokens."
        ) from None
    return prompt, completion


def show_result(shown: Any) -> None:
    """Print a text, a table, or a group of them: tables as lines if the terminal is too narrow for them."""
    from rich.console import Group
    from rich.table import Table

    from dlm_trl.synth.show import as_lines

    if not is_main():
        return
    if isinstance(shown, str):
        say(shown)
        return
    out = console()
    for part in shown.renderables if isinstance(shown, Group) else [shown]:
        if isinstance(part, Table) and not (out.is_terminal and out.width >= _MIN_COLUMNS):
            say(as_lines(part))
        else:
            out.print(part, soft_wrap=not isinstance(part, Table))  # unwrapped, so that commands can be copied
