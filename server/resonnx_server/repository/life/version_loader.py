"""Loads a version whose folder may change meanwhile, on the threads of loads: what serves is what was looked at."""

from collections.abc import Callable
from typing import Final

from resonnx_server.config import ModelSettings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.life.generation import Generation
from resonnx_server.repository.life.survey import content_sum, stamp
from resonnx_server.repository.loading.load import ModelUnchanged
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start

_CHANGED: Final = "its files changed while it was loaded"
# Loads a version with these settings, or raises ModelRefused.
LoadVersion = Callable[[ModelFolder, ModelSettings, Progress], Start]


class VersionLoader:
    """Loads versions.

    Args:
        load_version: Loads a version.
        compares: Files may change: they are compared with what was looked at, before and after each load.
    """

    def __init__(self, load_version: LoadVersion, *, compares: bool) -> None:
        self._load_version = load_version
        self._compares = compares
        # By name and version: what is to be loaded, and what serves.
        self._expected: dict[tuple[str, int], tuple[Generation, Generation | None]] = {}

    def expect(self, folder: ModelFolder, generation: Generation, serving: Generation | None) -> None:
        """Note what the next load of a version is to find, and what serves meanwhile."""
        self._expected[folder.name, folder.version] = generation, serving

    def load(self, folder: ModelFolder, progress: Progress) -> Start:
        """Load a version.

        Raises:
            ModelRefused: It must not serve, or its files have changed since they were looked at.
            ModelUnchanged: What serves has the same files and settings.
        """
        generation, serving = self._expected.pop((folder.name, folder.version))
        content = generation.content
        if content.settings is None:
            raise ModelRefused(content.configured)
        if not self._compares or content.stamp is None:
            return self._load_version(folder, content.settings, progress)
        progress.reach("verifying")
        if serving is not None:
            generation.total = content_sum(folder.path)
        now = stamp(folder.path)
        if now is None or not now.is_like(content.stamp):
            raise ModelRefused("its files have changed since they were looked at")
        if serving is not None and serving.total == generation.total is not None and _same(serving, generation):
            raise ModelUnchanged
        start = self._load_version(folder, content.settings, progress)
        after = stamp(folder.path)
        if generation.total is not None:
            if after != now and content_sum(folder.path) != generation.total:
                raise ModelRefused(_CHANGED)
        elif after == now:
            # Only now, as the load has read most of the files and knows their sums.
            generation.total = content_sum(folder.path)
        elif after is None or not after.is_like(now):
            raise ModelRefused(_CHANGED)
        return start

    def load_again(self, generation: Generation, folder: ModelFolder, progress: Progress) -> Start:
        """Load what serves as `generation` once more.

        Raises:
            ModelRefused: It must not serve, or its files have changed since they were looked at.
        """
        content = generation.content
        now = stamp(folder.path)
        if content.settings is None or content.stamp is None or now is None or not now.is_like(content.stamp):
            raise ModelRefused("its files have changed since they were looked at")
        start = self._load_version(folder, content.settings, progress)
        if stamp(folder.path) != now:
            raise ModelRefused("its files changed while it was loaded")
        return start


def _same(one: Generation, other: Generation) -> bool:
    """Whether two generations have the same settings and files beside the version."""
    return (one.content.configured, one.content.beside) == (other.content.configured, other.content.beside)
