"""Serve the review page until Ctrl+C: `with listen(0) as listening: serve(application(…), listening)`.

The socket is bound to 127.0.0.1, so no other machine can connect.
"""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from contextlib import suppress
from typing import TYPE_CHECKING

from dlm_trl.notes.errors import ReviewError

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn import Server

_LOCAL = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """A socket that listens on this port of this machine; 0: on a free one. Raises DlmError (ReviewError)."""
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((_LOCAL, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ReviewError(
            f"Port {port} can't be used: {error.strerror}.",
            hint="Choose another --port, or leave it out to use a free one.",
        ) from None
    return listening


def address(listening: socket.socket, token: str) -> str:
    """The address of the page on this socket."""
    return f"http://{_LOCAL}:{listening.getsockname()[1]}/{token}/"


def server(app: ASGIApp) -> Server:
    """A server for this application, which logs only its own errors."""
    import uvicorn

    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,  # it would show the token
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until Ctrl+C."""
    with suppress(KeyboardInterrupt):
        server(app).run(sockets=[listening])


def open_browser(url: str) -> bool:
    """Open the address in the user's browser; False if there is none, or only a text browser."""
    has_display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return bool(has_display or os.environ.get("BROWSER")) and webbrowser.open(url)
