"""Shows the stages of an export on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Progress = Callable[[str], None]
"""Called with a few words as each stage begins."""


def silent(stage: str) -> None:
    """Show nothing."""


@contextmanager
def progress_bar(title: str, stages: int) -> Iterator[Progress]:
    """Show the progress of a job of `stages` stages. The bar appears after two seconds, so short jobs show none."""
    if not sys.stderr.isatty():
        yield lambda stage: print(f"{title}: {stage}", file=sys.stderr, flush=True)
        return
    # One more than the stages, so that the bar is not full during the last.
    with tqdm(
        total=stages + 1, desc=title, delay=2, leave=False, bar_format="{desc} |{bar:20}| {elapsed}{postfix}"
    ) as bar:

        def begin(stage: str) -> None:
            bar.set_postfix_str(stage, refresh=False)
            # The int8 guard has more stages than planned when it restores blocks to floating point.
            bar.update(bar.n < stages)

        yield begin
