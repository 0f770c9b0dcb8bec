"""Tells which models' folders have settled: two looks in a row, some time apart, have found the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from resonnx_server.repository.life.survey import Seen, Stamp

# Looks count as in a row only if they are so far apart, as a share of the interval.
_APART: Final = 0.5

_UNREADABLE: Final = Seen({}, Stamp((("", -1, 0, 0, 0),)))


@dataclass
class _Looked:
    seen: Seen | None
    since_s: float


class Settling:
    """The latest looks at a repository.

    A folder that cannot be read has not settled, so what it held is kept. Neither has a repository that has become
    empty: a volume that is not mounted looks like that.

    Args:
        interval_s: Between looks.
    """

    def __init__(self, interval_s: float) -> None:
        self._quiet_s = interval_s * _APART
        self._looked: dict[str, _Looked] = {}
        self.is_empty = False

    def take(self, found: Mapping[str, Seen | None]) -> None:
        """Note models as they were loaded at start, which are taken at once."""
        self._looked = {name: _Looked(seen, float("-inf")) for name, seen in found.items()}

    def look(self, found: Mapping[str, Seen | None], now_s: float) -> dict[str, Seen | None]:
        """Note a look, and return the models that have settled; None for one whose folder has vanished.

        Args:
            found: Of all models.
            now_s: Monotonic time.
        """
        self.is_empty = not found and bool(self._looked)
        if self.is_empty:
            return {}
        settled: dict[str, Seen | None] = {}
        for name in {*found, *self._looked}:
            seen, looked = found.get(name), self._looked.get(name)
            if name in found and (seen is None or None in seen.versions.values()):
                self._looked[name] = _Looked(_UNREADABLE, now_s)
            elif looked is None or looked.seen != seen:
                self._looked[name] = _Looked(seen, now_s)
            elif now_s - looked.since_s >= self._quiet_s:
                settled[name] = seen
                if seen is None:
                    del self._looked[name]
        return settled
