"""Tells a waiting person what an export is doing: a bar on a terminal, plain lines elsewhere; always on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Progress = Callable[[str], None]
"""Called with a few words as each stage begins."""


@contextmanager
def progress(title: str, stages: int) -> Iterator[Progress]:
    """Show how far a job of `stages` stages is. The bar waits two seconds, so short jobs stay silent."""
    if not sys.stderr.isatty():
        yield lambda stage: print(f"{title}: {stage}", file=sys.stderr, flush=True)
        return
    # One more than the stages, so that the bar is not full while the last is at work.
    with tqdm(
        total=stages + 1, desc=title, delay=2, leave=False, bar_format="{desc} |{bar:20}| {elapsed}{postfix}"
    ) as bar:

        def tell(stage: str) -> None:
            bar.set_postfix_str(stage, refresh=False)
            # A guard that puts blocks back tells more often than was planned.
            bar.update(bar.n < stages)

        yield tell
