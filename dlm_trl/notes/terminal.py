"""Everything that this package prints goes through here: `say` for text, `console` for tables and progress bars, and
`logging_to_stderr` for warnings. Control characters are escaped, whoever wrote the text.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dlm_trl.notes.escape import printable, redact

if TYPE_CHECKING:
    from rich.console import Console


def say(text: object = "", *, err: bool = False, end: str = "\n") -> None:
    """Print the text to stdout, or to stderr, with control characters escaped; end as for `print`."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    # A terminal's encoding may lack characters; their escapes are readable.
    line = printable(str(text)).encode(encoding, "backslashreplace").decode(encoding)
    print(line, file=stream, end=end, flush=True)


def console(*, stderr: bool = False, width: int | None = None, soft_wrap: bool = False, quiet: bool = False) -> Console:
    """A rich console that escapes control characters and interprets no markup such as `[red]`."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class EscapingConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                # rich's own cursor movements are control segments.
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    return EscapingConsole(
        stderr=stderr, width=width, soft_wrap=soft_wrap, quiet=quiet, markup=False, emoji=False, highlight=False
    )


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Print this package's warnings with `say`; for programs, not for libraries, which leave logging to the user."""
    logger, handler = logging.getLogger("dlm_trl"), _Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(redact(self.format(record)), err=True)
