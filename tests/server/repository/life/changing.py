"""A repository that changes, and what follows, in this process: real loads and sessions, without ports."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.devices import Devices
from resonnx_server.inference.registry import Models
from resonnx_server.observe.metrics import Metrics
from resonnx_server.readiness import Readiness
from resonnx_server.repository.control import Control
from resonnx_server.repository.known_graphs import KnownGraphs
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.life.watch import RepositoryWatch
from resonnx_server.repository.loader import load
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start, Version

from ...waiting import until


class Changing:
    """The model "m" of a repository.

    Attributes:
        during: Called in each load, after the files were read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = Settings(repository=root, control_mode="poll", poll_interval_s=0.1)
        self.models, self.metrics, self.devices = Models(), Metrics(), Devices(2)
        self.known = KnownGraphs()
        self.during: Callable[[Progress], None] = lambda _: None
        memory = Mock(keep_for_batches=lambda nbytes: 0)
        readiness = Readiness(self.models, lambda *_: None)
        self.control = Control(self.settings, self.models, readiness, self._load, self.metrics, memory)

    def _load(self, folder: ModelFolder, own: ModelSettings, progress: Progress) -> Start:
        cache = LatencyCache.open(None, 2)
        made = load(Version(folder, own, self.metrics, self.devices.of, 2, cache, progress, known=self.known))
        self.during(progress)
        return made

    def see(self) -> None:
        """Take what the folders show now."""
        for name, looked in RepositoryWatch(self.settings).first().items():
            self.control.see(name, looked)

    async def seen(self) -> None:
        """Take what the folders show now, and wait for what follows."""
        self.see()
        await self.rest()

    async def rest(self) -> None:
        """Wait until nothing is loaded or drained."""
        await until(lambda: self.control._lives["m"].is_settled)

    def states(self) -> dict[int, tuple[str, str]]:
        """Return states and reasons by version."""
        return {each.version: (each.state.value, each.reason) for each in self.control.states()}

    def results(self) -> dict[str, int]:
        """Return how many loads have ended so."""
        return {result: count for (_, result), count in self.models.ended_loads.items()}


@asynccontextmanager
async def changing(root: Path) -> AsyncIterator[Changing]:
    """Load what is there, and then what changes."""
    made = Changing(root)
    await made.control.begin(RepositoryWatch(made.settings).first())
    made.models.loading = False
    working = asyncio.create_task(made.control.work())
    try:
        yield made
    finally:
        working.cancel()
        await asyncio.wait({working})
        for model in made.models:
            model.engine.close()
        for device in made.devices:
            device.close()
