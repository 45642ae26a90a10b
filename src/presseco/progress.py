"""Show how far a training is: a live bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

#: `report(what, done, total)`: what is under way, and how much of it is behind.
Report = Callable[[str, int, int], None]

#: Seconds between two lines of one phase in a log: a quarter of an hour gives 30 lines at most.
_PAUSE = 30.0


@contextmanager
def progress(console: Console, title: str, *, pause: float = _PAUSE) -> Iterator[Report]:
    """Give the function to report with while the block runs; `title` says whose progress it is."""
    if console.is_terminal:
        with _bar(console, title) as report:
            yield report
    else:
        yield _lines(console, title, pause)


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Report]:
    columns = (
        TextColumn("[bold]{task.fields[title]}[/] {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("start", total=1, title=title)
        yield lambda what, done, total: bars.update(
            task, description=what, completed=done, total=total
        )


def _lines(console: Console, title: str, pause: float) -> Report:
    """Return a report that prints at most one line every `pause` seconds."""
    started = time.monotonic()
    printed = started - pause

    def report(what: str, done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= pause:
            printed = now
            console.print(f"{title} {what}: {done} of {total}, {now - started:.0f} s", markup=False)

    return report
