"""Which requests are in a share of all: evenly spread, or always the same callers."""

import hashlib
from typing import Final

# The golden ratio: multiples of it are spread evenly, without the periods of traffic.
_STEP: Final = int((5**0.5 - 1) / 2 * 2**64) | 1
_WHOLE: Final = 2**64


class Spread:
    """Chooses an even share of requests, without chance: of any many in a row, the share to within a few.

    Args:
        share: 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._below = round(share * _WHOLE)
        self._at = 0

    def chooses(self) -> bool:
        """Whether the next request is chosen."""
        self._at = (self._at + _STEP) % _WHOLE
        return self._at < self._below


class Sticky:
    """Chooses a share of callers: each always, or never. A larger share contains a smaller one of the same salt.

    Args:
        share: 0 to 1, of the callers' keys.
        salt: Names the choice, so that another model's share has other callers.
    """

    def __init__(self, share: float, salt: str) -> None:
        self._below = round(share * _WHOLE)
        self._salt = salt.encode()

    def chooses(self, key: str) -> bool:
        """Whether a caller with this key is chosen."""
        digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8, key=self._salt[:64]).digest()
        return int.from_bytes(digest) < self._below
