"""The repository's models while the server runs: loads them at start, takes changes, and unloads them.

Which versions are loaded and drained is decided in life/model_life.py; this module acts on it:

    look ──→ load, on a thread ──→ swap in the registry ──→ drain the old one by its lease ──→ free
                    │
                    └──→ refused: the old one serves on
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.errors import ModelRefused, NotFound, NotSupported, Unavailable
from resonnx_server.inference.registry import Model, Models, Refusal
from resonnx_server.inference.repository_control import COMING, State, VersionState
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.life.announcer import STAGES, Announcer
from resonnx_server.repository.life.content import Looked, contents_of
from resonnx_server.repository.life.generation import Generation
from resonnx_server.repository.life.model_life import ModelLife
from resonnx_server.repository.life.off_loop import off_loop
from resonnx_server.repository.life.proving import Proving
from resonnx_server.repository.life.reloading import Reloading
from resonnx_server.repository.life.remeasuring import Remeasuring
from resonnx_server.repository.life.serving import ModelMemory, Serving
from resonnx_server.repository.life.turns import Turns
from resonnx_server.repository.life.unused import Unused
from resonnx_server.repository.life.version_loader import LoadVersion, VersionLoader
from resonnx_server.repository.loading.load import ModelLoad
from resonnx_server.repository.loading.loads import Loading
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Start
from resonnx_server.runtime.model_files.files import ModelUnreadable
from resonnx_server.runtime.model_files.manifest import MODEL_NAME
from resonnx_server.scheduling.replacement import Event
from resonnx_server.version_policy import VersionPolicy

_log = logging.getLogger(__name__)

# Files that could not be read are tried again after so long, then after twice the time, up to the longest.
_FIRST_RETRY_S: Final = 15.0
_LONGEST_RETRY_S: Final = 600.0


class Control:
    """The lives of all models. Event loop only.

    Args:
        settings: The server's settings.
        models: The registry.
        announcer: Is told what happens.
        load_version: Loads a version.
        metrics: The server's metrics.
        memory: Is told of models that are loaded and freed.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        announcer: Announcer,
        load_version: LoadVersion,
        metrics: Metrics,
        memory: ModelMemory,
    ) -> None:
        self._settings, self._models, self._announcer, self._metrics = settings, models, announcer, metrics
        self._loader = VersionLoader(load_version, compares=settings.control_mode != "none")
        self.loading = Loading(self._loader.load, self, settings.load_timeout_s)
        self.serving = Serving(models, memory)
        self.unused = Unused(models, settings.unload_unused_s, memory)
        self._memory = memory
        self._lives: dict[str, ModelLife] = {}
        self._coming: dict[tuple[str, int], tuple[ModelLife, Generation]] = {}
        self._retry_s: dict[tuple[str, int], float] = {}
        self._queue: list[ModelFolder] = []
        self._kick = asyncio.Event()
        self._changed = asyncio.Event()  # Set, and replaced, when a life has changed.
        self._turns = Turns()
        reloading = Reloading(settings, models, announcer, self.loading, self._loader, memory, self._serve, self._act)
        self.remeasuring = Remeasuring(models, reloading)
        proving = Proving(settings, models, self.serving, self._lives, self._turns, self._act, self._until)
        self.add_beside, self.promote = proving.add_beside, proving.promote
        self.withdraw, self.take_back = proving.withdraw, proving.take_back

    # What follows from looks at the repository.

    async def begin(self, found: Mapping[str, Looked]) -> None:
        """Load models at start."""
        for name in sorted(found):
            self.see(name, found[name])
        await self._load_queue()

    async def work(self) -> None:
        """Load what changes, until cancelled."""
        while await self._kick.wait():
            self._kick.clear()
            await self._load_queue()

    def see(self, name: str, looked: Looked | None) -> None:
        """Take what a model's folder shows; None if it is gone."""
        life = self._lives.get(name)
        if life is None:
            life = self._lives[name] = ModelLife(name, falls_back=self._settings.control_mode != "none")
        settings, contents = (None, {}) if looked is None else (looked.settings, looked.contents)
        if 0 in contents and life.serves:
            # It has no versions any more.
            contents = {}
        policy = life.policy if settings is None else VersionPolicy.parse(settings.version_policy)
        # Of settings that cannot be read, the last ones are kept.
        kept = life.wanted_labels if contents else life.labels
        life.see(contents, policy, kept if settings is None else settings.labels)
        self._act(life)
        if contents and not life.is_known:
            versions = ", ".join(map(str, sorted(contents)))
            reason = f"version_policy chooses none of its versions ({versions})"
            self._models.refuse(Refusal(name, max(contents), reason))
            _log.warning("no version is chosen", extra={"model": name, "reason": reason})
            self._announcer.update()

    async def _load_queue(self) -> None:
        while self._queue:
            folders, self._queue = self._queue, []
            self._memory.models_change()
            self.remeasuring.give_up()
            try:
                await self.loading.run(folders, beside=not self._models.loading)
            finally:
                await off_loop(self._memory.models_changed)

    def _act(self, life: ModelLife) -> None:
        """Begin the drains and loads that follow from what was noted."""
        self._models.label(life.name, life.labels)
        for generation in life.drains():
            self.serving.begin_drain(generation, partial(self._drained, life, generation))
        for generation in life.loads():
            key = life.name, generation.version
            self._coming[key] = life, generation
            path = self._settings.repository / life.name / str(generation.version)
            folder = ModelFolder(*key, path, generation.content.nbytes)
            self._loader.expect(folder, generation, life.serving(generation.version))
            self._queue.append(folder)
        self._tell_registry(life)
        self._announcer.update()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._kick.set()

    def _tell_registry(self, life: ModelLife) -> None:
        """Register the versions that are awaited, and remove those that are neither awaited nor refused any more."""
        states = {each.version: each.state for each in life.states()}
        known = [*self._models.awaited, *((each.name, each.version) for each in self._models.refused)]
        for name, version in known:
            if name == life.name and states.get(version) not in (*COMING, State.READY, State.REFUSED):
                self._models.forget(name, version)
        for version, state in states.items():
            if state in COMING:
                self._models.expect({life.name: version})

    def _drained(self, life: ModelLife, generation: Generation) -> None:
        life.drained(generation)
        if life.serving(generation.version) is None:
            self._metrics.retire(life.name, generation.version)
        self._act(life)

    # What happens to loads: the observer of `loading`.

    def reached(self, load: ModelLoad) -> None:
        """Note a load's stage; on its thread."""
        self._announcer.reached(load)
        if (state := STAGES.get(load.progress.stage)) is not None:
            load.call_soon(self._note, load.folder, state)

    def _note(self, folder: ModelFolder, state: State) -> None:
        if (coming := self._coming.get((folder.name, folder.version))) is not None:
            coming[1].reach(state)

    def loaded(self, load: ModelLoad, start: Start) -> None:
        """Serve a version, in place of what it was."""
        life, generation = self._end(load)
        if not life.is_wanted(generation):
            life.dropped(generation)
        else:
            model = self._serve(life, generation, start)
            life.loaded(generation)
            self._announcer.loaded(load, model)
            self.remeasuring.note(life, generation, model, is_doubtful=load.progress.is_doubtful)
        self._count(load, "ready" if life.serving(generation.version) is generation else "dropped")
        self._retry_s.pop((life.name, generation.version), None)
        self._act(life)

    def _serve(self, life: ModelLife, generation: Generation, start: Start) -> Model:
        model = start()
        model.engine.on_event = partial(self._session_event, life, generation, model)
        self.serving.add(generation, model)
        return model

    def refused(self, load: ModelLoad, error: ModelRefused) -> None:
        """Refuse a version; what served before serves on."""
        life, generation = self._end(load)
        if not life.is_wanted(generation):
            life.dropped(generation)
            self._count(load, "dropped")
        else:
            life.refused(generation, error.message)
            self._announcer.refused(load, error.message)
            self._count(load, "refused")
            if isinstance(error, ModelUnreadable) and self._settings.control_mode != "none":
                self._retry_later(life, generation)
        self._act(life)

    def unchanged(self, load: ModelLoad) -> None:
        """Note that what serves has this content."""
        life, generation = self._end(load)
        life.unchanged(generation)
        self._count(load, "unchanged")
        self._act(life)

    def _count(self, load: ModelLoad, result: str) -> None:
        self._models.ended_loads[load.folder.name, result] += 1

    def _end(self, load: ModelLoad) -> tuple[ModelLife, Generation]:
        return self._coming.pop((load.folder.name, load.folder.version))

    def _retry_later(self, life: ModelLife, generation: Generation) -> None:
        """Try a version again whose files could not be read: that may pass without a change of them."""
        key = life.name, generation.version
        after_s = self._retry_s.get(key, _FIRST_RETRY_S)
        self._retry_s[key] = min(2 * after_s, _LONGEST_RETRY_S)

        def again() -> None:
            life.retry(generation)
            self._act(life)

        asyncio.get_running_loop().call_later(after_s, again)

    def _session_event(self, life: ModelLife, generation: Generation, model: Model, event: Event) -> None:
        self._announcer.session_event(model, event)
        self.unused.event(model.engine, event)
        if event.kind == "stopped" and generation.state is State.READY:
            life.refused(generation, event.detail)
            self.serving.stopped(generation)
            self._act(life)

    # Requests: RepositoryControl.

    async def load(self, name: str, settings: ModelSettings | None = None) -> None:
        """See RepositoryControl.load."""
        self._check_mode()
        async with self._turns.of(name):
            self._check_draining()
            folder = self._settings.repository / name
            is_name = MODEL_NAME.fullmatch(name) is not None
            looked = await off_loop(partial(contents_of, folder, self._settings, settings)) if is_name else None
            if looked is None:
                raise NotFound(f"the repository has no folder of a model {name[:64]!r} that can be read")
            if (life := self._lives.get(name)) is not None:
                life.retry()
            self.see(name, looked)
            life = self._lives[name]
            await self._until(lambda: not life.is_loading)
            if life.reasons:
                told = "; ".join(f"version {version}: {reason}" for version, reason in life.reasons.items())
                raise ModelRefused(f"model {name!r} was refused: {told}")
            if not life.serves:
                raise ModelRefused(f"model {name!r}: version_policy chooses none of its versions")

    async def unload(self, name: str) -> None:
        """See RepositoryControl.unload."""
        self._check_mode()
        async with self._turns.of(name):
            self._check_draining()
            if (life := self._lives.get(name)) is None:
                raise NotFound(f"model {name[:64]!r} is not loaded")
            for load in self.loading.under_way:
                if load.folder.name == name:
                    load.cancel()
            self.see(name, None)
            await self._until(lambda: life.is_settled)

    def states(self) -> list[VersionState]:
        """See RepositoryControl.states."""
        return [state for name in sorted(self._lives) for state in self._lives[name].states()]

    def _check_mode(self) -> None:
        if self._settings.control_mode != "explicit":
            mode = self._settings.control_mode
            raise NotSupported(f"models are not loaded and unloaded on request: control_mode is {mode}, not explicit")

    def _check_draining(self) -> None:
        if self._models.draining:
            raise Unavailable("the server is shutting down")

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()
            self._check_draining()
