"""How the memory budget is divided between the decoder of pictures and all else."""

from dataclasses import dataclass
from typing import Final

# Pictures of one or two megapixels do not wait for the memory of large ones: there is so much for one a thread.
SMALL_PICTURE_BYTES: Final = 16 << 20
# Part of the decoder's memory that small pictures may take at most: 1/4.
_FOR_SMALL: Final = 4
# Largest messages that the decoder leaves to requests, if that is more than half of the budget.
_MESSAGES: Final = 8
# Largest messages that a budget holds at least.
_LEAST_MESSAGES: Final = 4


@dataclass(frozen=True)
class Division:
    """A memory budget and the decoder's part of it, in bytes.

    Attributes:
        whole: The budget.
        decoder: The decoder's part; all else is for requests.
        large: For large pictures together.
        small: For one small picture a thread.
        largest: For a picture that is decoded alone.
    """

    whole: int
    decoder: int
    large: int
    small: int
    largest: int


def divide(whole: int, most: int, alone: int, threads: int, max_message_bytes: int) -> Division:
    """Divide a memory budget.

    The decoder gets what its largest picture takes, if that leaves half of the budget, or eight messages, to requests.

    Args:
        whole: The budget.
        most: Memory to decode the largest permitted picture.
        alone: The same with the largest resizing; it may be more.
        threads: Pictures decoded at once.
        max_message_bytes: The largest request.
    """
    wanted = max(most, alone) + threads * SMALL_PICTURE_BYTES
    decoder = min(wanted, max(whole // 2, whole - _MESSAGES * max_message_bytes))
    small = min(SMALL_PICTURE_BYTES, decoder // _FOR_SMALL // threads)
    largest = decoder - threads * small
    return Division(whole, decoder, min(most, largest), small, largest)


def default_budget(usable: int, max_message_bytes: int) -> int:
    """Return the budget where none is set: half of the usable memory, and at least four of the largest messages."""
    return max(usable // 2, _LEAST_MESSAGES * max_message_bytes)
