"""`dlm-trl review FILE`: a local page to review staged pairs on. The work is in `dlm_trl.review`."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from dlm_trl.cli.options import DOCUMENT
from dlm_trl.notes.terminal import say


def review(
    file: DOCUMENT,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page on this machine; 0: a free one.")] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address; don't open a browser.")
    ] = False,
) -> None:
    """Review staged pairs on a local page: accept, edit or drop them one by one, by keyboard or mouse.

    Each pair is shown beside the prose that it comes from, with its sentence marked, its scores, and why it passed or
    was rejected. Accepting writes the pair into FILE at once, as `synth apply` does; undo takes it out again, byte for
    byte. The page is served to this machine only, at an address with a secret token. Ctrl+C ends it.
    """
    from dlm_trl.notes.extras import require_extra

    for package in ("starlette", "uvicorn"):
        require_extra("review", "The review page", package)
    from dlm_trl.review.app import application
    from dlm_trl.review.decisions import Review
    from dlm_trl.review.serve import address, listen, open_browser, serve
    from dlm_trl.synth.rejected import rejected
    from dlm_trl.synth.staging import staged

    reviewing = Review(file)
    waiting = len(staged(reviewing.document))
    if not waiting and not rejected(reviewing.document):
        say(f"{file}: nothing to review. To stage pairs: dlm-trl synth instructions {file}")
        return
    token = secrets.token_urlsafe(24)
    with listen(port) as listening:
        url = address(listening, token)
        say(f"{file}: {waiting} staged pairs to review at\n\n  {url}\n\nCtrl+C ends.")
        if not no_browser:
            open_browser(url)
        serve(application(reviewing, token), listening)
    left = len(staged(reviewing.document))
    accepted, dropped = reviewing.count("accept"), reviewing.count("drop")
    say(f"\n{file}: {accepted} accepted, {dropped} dropped, {left} left.")
