"""`dlm-trl push PATH REPO_ID`: publish an adapter, a model or a document's rows. The work is in `dlm_trl.hub`."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_trl.cli.export import silence_libraries
from dlm_trl.cli.shared import misuse_exits_with_2
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.escape import printable_json
from dlm_trl.notes.terminal import say

if TYPE_CHECKING:
    from dlm_trl.hub.upload import Upload


class Rows(StrEnum):
    """The kinds of rows of a document that can be sent."""

    sft = "sft"
    preference = "preference"
    prose = "prose"
    views = "views"


_LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]*")


@misuse_exits_with_2
def push(
    path: Annotated[
        Path,
        typer.Argument(
            exists=True,
            readable=True,
            metavar="PATH",
            help="A run's output folder, a merged or quantised model, or a .dlm document, whose rows become a dataset.",
        ),
    ],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="The repository: user/name, or name for your own.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card and the files that would be sent; contact nobody.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private/--public", help="Visibility of a new repository. An existing one keeps its own.")
    ] = True,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", help="Such as apache-2.0 or cc-by-4.0. Default for a model: the base's."
        ),
    ] = None,
    rows: Annotated[
        list[Rows] | None,
        typer.Option(help="Of a document: the kinds of rows to send; repeat it. Default: all that it has."),
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Send a model although dlm-trl verify failed it or never ran on it.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish an adapter, a merged or quantised model, or a document's rows on the Hugging Face Hub.

    Sends only the files that are needed to load it, and a card that says what
    it was trained on, which teachers wrote synthetic rows, under which licence,
    how it was measured, and how to load it. Reports, answers, checkpoints and
    serve_check.json stay here. The rows of a document contain its text.

    Log in with `hf auth login` or set HF_TOKEN. Look at a --dry-run first.

    Exit codes: 0 pushed, 1 refused or failed, 2 wrong usage.
    """
    silence_libraries()
    from dlm_trl.hub.upload import check_hub, check_repo_id, push_files

    if license_ is not None and not _LICENCE.fullmatch(license_):
        raise UsageError(f"{license_!r} isn't the id of a licence.", hint="Write it like apache-2.0 or cc-by-4.0.")
    if dry_run:
        check_repo_id(repo_id)
    else:
        repo_id = check_hub(repo_id)
    upload = _upload(path, repo_id, license_, rows, unverified)
    pushed = None if dry_run else push_files(upload, repo_id, private)
    is_private = pushed.private if pushed else private
    if json_:
        result = {
            "repo_id": repo_id,
            "repo_type": upload.repo_type,
            "kind": upload.kind,
            "private": is_private,
            "files": upload.sizes(),
            "left_out": upload.left_out,
            "notes": upload.notes,
            "card": upload.card,
            "url": pushed.url if pushed else None,
        }
        say(printable_json(result))
        return
    if dry_run:
        say(upload.card)
    visibility = "private" if is_private else "public"
    say(f"{upload.kind} {'would go' if dry_run else 'went'} to the {visibility} {upload.repo_type} {repo_id}:")
    say(_listing(upload))
    for note in upload.notes:
        say(f"note: {note}", err=True)
    if pushed:
        say(pushed.url)


def _upload(path: Path, repo_id: str, license: str | None, rows: list[Rows] | None, unverified: bool) -> Upload:
    if path.is_dir():
        from dlm_trl.hub.folders import model_upload

        if rows:
            raise UsageError("--rows is for documents.", hint="Leave it out for a model.")
        return model_upload(path, repo_id, license, unverified)
    from datasets import disable_progress_bars

    from dlm_trl.hub.dataset import KINDS, dataset_upload
    from dlm_trl.notes import read

    if unverified:
        raise UsageError("--unverified is for models.", hint="Leave it out for a document.")
    disable_progress_bars()
    return dataset_upload(read(path), repo_id, license, rows or KINDS)


def _listing(upload: Upload) -> str:
    sizes = upload.sizes()
    lines = [f"  {_size(size):>10}  {name}" for name, size in sizes.items()]
    lines.append(f"  {_size(sum(sizes.values())):>10}  in {len(sizes)} files")
    if upload.left_out:
        lines.append(f"  not sent: {', '.join(upload.left_out)}")
    return "\n".join(lines)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
