"""A progress bar on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Step(Protocol):
    """Counts a picture that is done."""

    def __call__(self, *, failed: bool) -> None: ...


@contextmanager
def progress(pictures: int) -> Iterator[Step]:
    """Show how many pictures are done, if stderr is a terminal and results do not go to one, which shows as much."""
    if pictures < 2 or not sys.stderr.isatty() or sys.stdout.isatty():
        yield _silent
        return
    # Imported here, as it is slow.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("pictures", total=pictures, failed="")
        failures = 0

        def step(*, failed: bool) -> None:
            nonlocal failures
            failures += failed
            bar.update(task, advance=1, failed=f"{failures} failed" if failures else "")

        yield step


def _silent(*, failed: bool) -> None:
    """Show nothing."""
