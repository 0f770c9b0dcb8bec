"""Watches the repository: looks at it again and again, and tells what has settled."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from resonnx_server.config import Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.life.content import UNREADABLE, Looked, contents_of
from resonnx_server.repository.life.off_loop import off_loop
from resonnx_server.repository.life.settling import Settling
from resonnx_server.repository.life.survey import Seen, survey

_log = logging.getLogger(__name__)

# Takes what a model's folder shows; None if it is gone.
See = Callable[[str, Looked | None], None]


class RepositoryWatch:
    """Looks at a repository. Event loop only.

    Args:
        settings: The server's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._settling = Settling(settings.poll_interval_s)
        # What was told last, by model.
        self._told: dict[str, Seen | None] = {}
        self._trouble = ""

    def first(self) -> dict[str, Looked]:
        """Look at all models, as they are at start.

        Raises:
            ModelRefused: The repository cannot be read, or it is a model's folder.
        """
        root = self._settings.repository
        found = survey(root, warns=True)
        self._settling.take(found)
        self._told = {**found}
        return {name: contents_of(root / name, self._settings, seen=seen) or UNREADABLE for name, seen in found.items()}

    async def run(self, see: See) -> None:
        """Look at the repository every `poll_interval_s`, and call `see` with each model that has changed."""
        while True:
            await asyncio.sleep(self._settings.poll_interval_s)
            await self.look(see)

    async def look(self, see: See) -> None:
        """Look once."""
        root = self._settings.repository
        try:
            found = await off_loop(partial(survey, root))
        except ModelRefused as error:
            self._report(error.message)
            return
        settled = self._settling.look(found, asyncio.get_running_loop().time())
        empty = "the repository has become empty, as a volume looks that is not mounted: its models serve on"
        self._report(empty if self._settling.is_empty else "")
        for name, seen in settled.items():
            if name in self._told and self._told[name] == seen:
                continue
            looked = None
            if seen is not None:
                looked = await off_loop(partial(contents_of, root / name, self._settings, seen=seen))
            self._told[name] = seen
            see(name, looked)
            if seen is None:
                del self._told[name]

    def _report(self, trouble: str) -> None:
        """Log what keeps the repository from being read, once."""
        if trouble and trouble != self._trouble:
            _log.warning("models are kept as they are", extra={"reason": trouble})
        self._trouble = trouble
