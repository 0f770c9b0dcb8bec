"""Prints the package index to take PyTorch from; nothing for pip's own.

That is the variable TORCH_INDEX_URL, else, on Linux, PyTorch's index of CPU builds, if it answers in time. PyPI's build
for Linux needs gigabytes of CUDA.
"""

import os
import sys
import urllib.request
from threading import Thread

_CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
_TIMEOUT_S = 5.0


def answers(index: str, timeout_s: float = _TIMEOUT_S) -> bool:
    """Return whether a package index lists torch within a time in seconds, the search for its address included."""
    answered = []

    def ask() -> None:
        try:
            # The address is ours.
            with urllib.request.urlopen(f"{index}/torch/", timeout=timeout_s) as page:  # noqa: S310
                answered.append(b"torch" in page.read(1 << 16))
        except (OSError, ValueError):
            answered.append(False)

    # The search for an address has no time-out of its own.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_s)
    return any(answered)


def torch_index() -> str | None:
    """Return the index to take PyTorch from; None for pip's own."""
    if wanted := os.environ.get("TORCH_INDEX_URL"):
        return wanted
    return _CPU_BUILDS if sys.platform == "linux" and answers(_CPU_BUILDS) else None


def main() -> None:
    """Print the index."""
    if (index := torch_index()) is not None:
        print(index)


if __name__ == "__main__":
    main()
