"""`dlm-trl synth list`, `coverage`, `show`, `apply`, `drop` and `revert`: what was written, staged or in the file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_trl.cli.options import FILE, FILES
from dlm_trl.cli.shared import documents, json_list, show_result
from dlm_trl.notes.terminal import console

if TYPE_CHECKING:
    from dlm_trl.notes import Document
    from dlm_trl.synth.preference_staging import Preference
    from dlm_trl.synth.staging import Staged

IDS = "Section ids or id prefixes, as shown by `synth list`."


def list_(
    files: FILES,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Explain one pair or preference instead: what each score compares, its limit, the checks.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON, with the whole prose of each pair.")] = False,
) -> None:
    """List the synthesised pairs, staged and in the file, with their answers and the prose that they come from.

    Preferences that a judge ranked are listed after them.
    """
    from dlm_trl.notes import read
    from dlm_trl.synth import listing, preference_show

    paths = documents(files)
    if explain is not None:
        if len(paths) > 1 or json_:
            raise typer.BadParameter("--explain works with one document only, and without --json.")
        from dlm_trl.synth.explain import explain as explained

        document = read(paths[0])
        pairs, preferences, full_id = _find(document, explain)
        show_result(
            explained(document, *pairs[full_id])
            if full_id in pairs
            else preference_show.whole(document, *preferences[full_id])
        )
        return
    out = console()
    with json_list() if json_ else nullcontext() as add:
        for path in paths:
            document = read(path)
            rows, preferred = listing.listed(document), preference_show.listed(document)
            if add:
                states = ("applied", "staged")
                both = {state: preference_show.as_plain(preferred, state) for state in states}
                add({"path": path, **{s: listing.as_plain(rows, s) for s in states}, "preferences": both})
                continue
            if rows:
                show_result(listing.blocks(rows, out.width) if out.is_terminal else listing.table(rows))
            in_file = sum(row.state == "applied" for row in rows)
            show_result(f"{path}: {in_file} applied, {len(rows) - in_file} staged.")
            if preferred:
                show_result(preference_show.table(preferred))
                in_file = sum(state == "applied" for state, _ in preferred)
                show_result(f"{path}: {in_file} preferences applied, {len(preferred) - in_file} staged.")


def coverage(files: FILES, json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the sentences that no pair asks about, the views of each, and the synthesised pairs whose sentence is gone.

    Pairs count whether they are in the file or staged. Nothing is changed. To have a teacher ask about the sentences:
    `dlm-trl synth instructions FILE --uncovered`.
    """
    from dlm_trl.notes import read
    from dlm_trl.rows.views import live_views, read_views
    from dlm_trl.synth import show
    from dlm_trl.synth.coverage import coverage
    from dlm_trl.synth.staging import staged

    with json_list() if json_ else nullcontext() as add:
        for path in documents(files):
            document = read(path)
            found = coverage(document, staged(document), live_views(document, read_views(document)))
            if add:
                add(show.coverage_fields(path, found))
            else:
                show_result(show.coverage(path, found))


def show_(file: FILE, id: Annotated[str, typer.Argument(help=IDS)]) -> None:
    """Show a pair or preference with its scores, prose and replies, or all replies about a prose section.

    `synth list FILE --explain ID` says what the scores mean.
    """
    from dlm_trl.notes import read
    from dlm_trl.synth import preference_show, show

    document = read(file)
    prose = [section.section_id for section in document.sections if section.kind == "prose"]
    pairs, preferences, full_id = _find(document, id, prose)
    if full_id in pairs:
        show_result(show.one_pair(document, *pairs[full_id]))
    elif full_id in preferences:
        show_result(preference_show.whole(document, *preferences[full_id]))
    else:
        show_result(show.replies(document, full_id))


def apply(file: FILE, ids: Annotated[list[str] | None, typer.Argument(metavar="[IDS]…", help=IDS)] = None) -> None:
    """Write staged pairs and preferences into the file, exactly as they were staged: those with the given ids, or all.

    The previous version of the file is kept as FILE.bak.
    """
    from dlm_trl.notes import read
    from dlm_trl.synth import apply as applying
    from dlm_trl.synth import preference_staging

    chosen, preferred = _staged_ids(read(file), ids)
    if chosen or not preferred:
        result = applying.apply(file, chosen)
        present = f"; {len(result.present)} were already there" if result.present else ""
        show_result(f"Applied {result.count} pairs to {file}{present}.")
    if preferred:
        show_result(f"Applied {preference_staging.apply_preferences(file, preferred)} preferences to {file}.")


def drop(file: FILE, ids: Annotated[list[str], typer.Argument(metavar="IDS…", help=IDS)]) -> None:
    """Remove pairs and preferences from staging; the file doesn't change.

    The ledger keeps the teacher's replies, so the `instructions` command that staged the pairs would stage them again.
    """
    from dlm_trl.notes import read
    from dlm_trl.synth import preference_staging, staging

    document = read(file)
    chosen, preferred = _staged_ids(document, ids)
    if chosen:
        show_result(f"Dropped {staging.drop(document, chosen)} staged pairs.")
    if preferred:
        show_result(f"Dropped {preference_staging.drop_preferences(document, preferred)} staged preferences.")


def revert(
    files: FILES,
    teacher: Annotated[str | None, typer.Option(metavar="REF", help="Only pairs from this teacher.")] = None,
    id: Annotated[list[str] | None, typer.Option(help="Only this pair; can be repeated.")] = None,
) -> None:
    """Remove synthesised pairs and judged preferences from the file, and nothing else."""
    from dlm_trl.notes import read
    from dlm_trl.synth import apply as applying
    from dlm_trl.synth import preference_staging

    paths = documents(files)
    if id and len(paths) > 1:
        raise typer.BadParameter("--id works with one document only.")
    for path in paths:
        sections = read(path).sections
        pairs, preferences = (
            [section.bare_id for section in sections if is_kind(section)]
            for is_kind in (attrgetter("auto_synth"), attrgetter("auto_mined"))
        )
        chosen, preferred = _by_kind(id, pairs, preferences)
        if chosen or not preferred:
            count = applying.revert(path, chosen, teacher).count
            show_result(f"Removed {count} synthesised pairs from {path}.")
        if preferred:
            removed = preference_staging.revert_preferences(path, preferred, teacher)
            show_result(f"Removed {len(removed)} preferences from {path}.")


def _staged_ids(document: Document, ids: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The full ids of the staged pairs and of the staged preferences with these prefixes; without ids, all of both."""
    from dlm_trl.synth.preference_staging import staged_preferences
    from dlm_trl.synth.staging import staged

    pairs, preferences = staged(document), staged_preferences(document)
    return _by_kind(ids, [item.section_id for item in pairs], [item.section_id for item in preferences])


def _by_kind(
    ids: Sequence[str] | None, pairs: Sequence[str], preferences: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The full ids of pairs and of preferences with these prefixes; without ids, all of both."""
    from dlm_trl.synth.staging import resolve_ids

    full = resolve_ids(ids, [*pairs, *preferences]) if ids else list(dict.fromkeys([*pairs, *preferences]))
    return [one for one in full if one in set(pairs)], [one for one in full if one in set(preferences)]


def _find(
    document: Document, prefix: str, others: Sequence[str] = ()
) -> tuple[dict[str, tuple[Staged, str]], dict[str, tuple[Preference, str]], str]:
    """The document's pairs and preferences with their states, by id; and the full id that starts with this prefix.

    others: ids that it may be as well.
    """
    from dlm_trl.synth.preference_show import listed
    from dlm_trl.synth.staging import applied, resolve_ids, staged

    pairs = {item.section_id: (item, "applied") for item in applied(document)}
    pairs |= {item.section_id: (item, "staged") for item in staged(document)}
    preferences = {item.section_id: (item, state) for state, item in listed(document)}
    (full_id,) = resolve_ids([prefix], [*pairs, *preferences, *others])
    return pairs, preferences, full_id
