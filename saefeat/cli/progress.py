"""How long work is shown: a bar for each stage on a terminal, elsewhere log lines, at most one a minute."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saefeat.cli.common import Settings

log = logging.getLogger("saefeat.stages")
EVERY = 60.0
"""Seconds between log lines of a stage."""
MOMENT = 5.0
"""Seconds within which a stage is not worth a line."""
OnProgress = Callable[[int, int], None]


@contextlib.contextmanager
def stages(settings: Settings) -> Iterator[Callable[[str], OnProgress]]:
    """Gives `report(stage)`, which begins a stage (and ends the one before) and returns what to tell its progress.

    On stderr; silent with --quiet. Work of one stage is a stage too.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=settings.quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.is_terminal and not settings.quiet
    lines: Lines | None = None
    with Progress(*columns, console=console, disable=not shown) as display:

        def report(stage: str) -> OnProgress:
            nonlocal lines
            if shown:
                task = display.add_task(stage, total=None)
                return lambda done, total: display.update(task, completed=done, total=total or None)
            if lines is not None:
                lines.end()
            lines = Lines(stage)
            return lines.tell

        yield report
        if lines is not None:
            lines.end()


class Lines:
    """A stage as log lines: that it is under way, how far it is and how long it will take, that it is done.

    Nothing is said of what takes a moment, so that an error that ends it stands alone.
    """

    def __init__(self, stage: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.stage, self.clock = stage, clock
        self.began = clock()
        self.told: float | None = None
        self.first: tuple[float, int] | None = None
        """When progress was first heard of, and how much was done by then: the rest of a resumed stage is reckoned from
        there."""

    def tell(self, done: int, total: int) -> None:
        now = self.clock()
        if self.told is None:
            if now - self.began < MOMENT:
                return
            log.info("%s ...", self.stage)
            self.told = now
        if self.first is None or done < self.first[1]:  # the next part of the stage counts anew
            self.first = (now, done)
        if now - self.told < EVERY:
            return
        self.told = now
        since, before = self.first
        if not total:
            log.info("%s: %s", self.stage, f"{done:,}")
            return
        left = ""
        if done > before:
            left = f", about {duration((now - since) * (total - done) / (done - before))} left"
        log.info("%s: %s of %s%s", self.stage, f"{done:,}", f"{total:,}", left)

    def end(self) -> None:
        if self.told is None and self.clock() - self.began < MOMENT:
            return
        log.info("%s done in %s", self.stage, duration(self.clock() - self.began))


def duration(seconds: float) -> str:
    """'1 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
