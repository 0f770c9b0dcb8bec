"""The choice of a model's provider and precision: raced once, and kept in the cache."""

import logging
import math
from collections.abc import Sequence
from typing import Final

from resonnx_server.repository.choosing.report import RaceReport
from resonnx_server.repository.choosing.turns import Raced
from resonnx_server.repository.latency_cache import CachedChoice
from resonnx_server.repository.version import Version

_log = logging.getLogger(__name__)

# Joins the names of the candidates of a model's files.
SEPARATOR: Final = " + "


class ProviderChoice:
    """The choice for one version.

    Args:
        version: The version.
        identity: Sum of its files.
        files: Names of its ONNX files.
        candidates: Names of the candidates of each.
    """

    def __init__(
        self, version: Version, identity: str, files: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> None:
        self._version, self._files = version, files
        self._count = math.prod(map(len, candidates))
        self._between = f"{identity} {[*map(list, candidates)]} {version.threads} {version.largest_batch}"
        self._cached = version.cache.choice(self._between) if version.effort.asks_cache and self._count > 1 else None
        self._raced: Raced | None = None

    def kept(self) -> tuple[str, ...] | None:
        """Return the chosen candidate of each file, if the cache has it beyond doubt."""
        if self._cached is None or self._cached.is_doubtful or len(self._cached.chosen) != len(self._files):
            return None
        return tuple(map(str, self._cached.chosen))

    def raced(self, names: Sequence[str], raced: Raced) -> None:
        """Note a race between candidates."""
        self._raced = raced
        report = RaceReport(SEPARATOR.join(self._files), "provider", names, [0.0] * len(names), raced)
        _log.info("compared candidates", extra={"model": self._version.folder.name, **report.told})
        self._version.progress.on_race(report)

    def keep(self, chosen: tuple[str, ...]) -> None:
        """Keep what serves, if all candidates have raced for it: one that failed may run at the next start."""
        if self._raced is None or len(self._raced.order) < self._count:
            return
        doubts = (self._cached.doubts if self._cached else 0) + 1 if self._raced.is_doubtful else 0
        kept = CachedChoice(chosen, doubts)
        self._version.progress.is_doubtful |= kept.is_doubtful
        self._version.cache.keep_choice(self._between, kept)
