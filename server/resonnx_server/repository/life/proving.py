"""Versions beside the one that answers calls without a version: added, promoted, withdrawn, or taken back."""

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from resonnx_server.config import Settings
from resonnx_server.errors import ModelRefused, NotFound, VersionNotFound
from resonnx_server.inference.registry import STABLE, Models, Refusal
from resonnx_server.repository.life.content import contents_of
from resonnx_server.repository.life.model_life import ModelLife
from resonnx_server.repository.life.off_loop import off_loop
from resonnx_server.repository.life.serving import Serving
from resonnx_server.repository.life.turns import Turns


class Proving:
    """Adds, promotes, withdraws and takes back versions. Event loop only.

    Args:
        settings: The server's settings.
        models: The registry.
        serving: What serves.
        lives: The lives of models by name.
        turns: Those who change a model take turns.
        act: Begins the loads and drains that follow from what was noted of a life.
        until: Waits until a condition holds.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        serving: Serving,
        lives: Mapping[str, ModelLife],
        turns: Turns,
        act: Callable[[ModelLife], None],
        until: Callable[[Callable[[], bool]], Coroutine[Any, Any, None]],
    ) -> None:
        self._settings, self._models, self._serving, self._lives = settings, models, serving, lives
        self._turns, self._act, self._until = turns, act, until

    async def add_beside(self, name: str, version: int) -> None:
        """See RepositoryControl.add_beside."""
        async with self._turns.of(name):
            default, life = self._models.get(name).version, self._lives[name]
            life.held = default
            try:
                if life.serving(version) is None:
                    await self._load(life, version)
            except BaseException:
                # The load has failed, or the caller has gone.
                self._end(life, version)
                raise
            self._act(life)

    async def promote(self, name: str, version: int) -> None:
        """See RepositoryControl.promote."""
        async with self._turns.of(name):
            life = self._life(name)
            if life.serving(version) is None:
                raise VersionNotFound(f"version {version} of model {name!r} does not serve any more")
            life.pins, life.held, life.beside = {STABLE: version}, 0, 0
            if STABLE not in life.wanted_labels and version == max(life.chosen, default=0):
                # It is the default by the policy; a later version is not kept from being that.
                life.pins = {}
            self._act(life)

    async def withdraw(self, name: str, version: int, reason: str) -> None:
        """See RepositoryControl.withdraw."""
        async with self._turns.of(name):
            self._refuse(self._life(name), version, reason)

    async def take_back(self, name: str, version: int, reason: str = "") -> None:
        """See RepositoryControl.take_back."""
        async with self._turns.of(name):
            life = self._life(name)
            has_others = any(number != version for number in self._models.versions(name))
            if reason and life.beside == version and version not in life.wanted_labels.values() and has_others:
                self._refuse(life, version, reason)
            else:
                self._end(life, version)

    async def _load(self, life: ModelLife, version: int) -> None:
        name = life.name
        looked = await off_loop(partial(contents_of, self._settings.repository / name, self._settings))
        if looked is None or version not in looked.contents or not version:
            numbers = [str(number) for number in sorted(looked.contents if looked else ()) if number]
            there = ", ".join(numbers) or "none"
            raise VersionNotFound(f"model {name!r} has no version {version} in its folder, but {there}")
        life.add(version, looked.contents[version])
        life.retry_version(version)
        life.beside = version
        self._act(life)
        await self._until(lambda: not life.is_loading)
        if life.serving(version) is None:
            reason = life.reasons.get(version, "it was not loaded")
            raise ModelRefused(f"version {version} of model {name!r} was refused: {reason}")

    def _refuse(self, life: ModelLife, version: int, reason: str) -> None:
        life.held = life.beside = 0
        if (generation := life.serving(version)) is not None:
            life.refused(generation, reason)
            self._models.refuse(Refusal(life.name, version, reason, was_served=True))
            self._serving.begin_drain(generation, lambda: None)
        self._act(life)

    def _end(self, life: ModelLife, version: int) -> None:
        life.held = life.beside = 0
        life.take_back(version)
        self._act(life)

    def _life(self, name: str) -> ModelLife:
        if (life := self._lives.get(name)) is None:
            raise NotFound(f"model {name[:64]!r} is not loaded")
        return life
