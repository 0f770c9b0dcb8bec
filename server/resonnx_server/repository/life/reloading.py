"""Loads what serves once more, from the same files, and lets it serve in place of what it was."""

import asyncio
from collections.abc import Callable
from functools import partial

from resonnx_server.config import Settings
from resonnx_server.inference.registry import Model, Models
from resonnx_server.repository.life.announcer import Announcer
from resonnx_server.repository.life.generation import Generation
from resonnx_server.repository.life.model_life import ModelLife
from resonnx_server.repository.life.off_loop import off_loop
from resonnx_server.repository.life.serving import ModelMemory
from resonnx_server.repository.life.version_loader import VersionLoader
from resonnx_server.repository.loading.load import ModelLoad
from resonnx_server.repository.loading.loads import Loading
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start


class Reloading:
    """Loads again. Event loop only.

    Args:
        settings: The server's settings.
        models: The registry.
        announcer: Is told what serves.
        loading: The loads of the repository.
        loader: Loads versions.
        memory: Is told of what is loaded.
        serve: Makes the model of a generation and lets it serve.
        act: Begins the drains that follow.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        announcer: Announcer,
        loading: Loading,
        loader: VersionLoader,
        memory: ModelMemory,
        serve: Callable[[ModelLife, Generation, Start], Model],
        act: Callable[[ModelLife], None],
    ) -> None:
        self._settings, self._models, self._announcer = settings, models, announcer
        self._loading, self._loader, self._memory = loading, loader, memory
        self._serve, self._act = serve, act

    @property
    def is_busy(self) -> bool:
        """Whether models are loaded, or the server stops."""
        return bool(self._loading.under_way) or self._models.draining or self._models.loading

    def load_again(self, life: ModelLife, generation: Generation) -> ModelLoad:
        """Begin to load what serves once more, measuring what is doubtful, within load_timeout_s."""
        name, version = life.name, generation.version
        folder = ModelFolder(name, version, self._settings.repository / name / str(version))
        self._memory.models_change()
        load = self._loading.begin_again(folder, partial(self._loader.load_again, generation))
        timer = asyncio.get_running_loop().call_later(self._settings.load_timeout_s, load.cancel)
        # To cancel a load that has ended would end the runs of what serves by then.
        load.result.add_done_callback(lambda _: timer.cancel())
        return load

    async def ended(self) -> None:
        """Note that a load has ended, and serves or was dropped."""
        await off_loop(self._memory.models_changed)

    def renew(
        self, life: ModelLife, generation: Generation, load: ModelLoad, start: Start
    ) -> tuple[Generation, Model] | None:
        """Serve what was loaded again in place of what it was, and return it; None if that is not wanted any more."""
        # A comparison would end without a verdict, as its versions must stay.
        if life.serving(generation.version) is not generation or not life.is_wanted(generation) or life.is_compared:
            return None
        renewed = Generation(generation.version, generation.content, total=generation.total)
        model = self._serve(life, renewed, start)
        life.renew(renewed)
        self._announcer.loaded(load, model)
        self._act(life)
        return renewed, model
