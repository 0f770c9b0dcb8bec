"""Decides which versions of one model are loaded and drained, from what its folder shows and how loads end. Pure.

What serves is only drained when all versions that shall serve do: a version that is refused leaves the others serving,
and is tried again when its content changes.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from resonnx_server.inference.registry import STABLE
from resonnx_server.inference.repository_control import COMING, State, VersionState
from resonnx_server.repository.life.generation import Generation
from resonnx_server.version_policy import VersionPolicy

_NO_LABELS: Final[Mapping[str, int]] = {}
# Unloaded versions that are not in the folder any more, and are still shown.
_SHOWN: Final = 8


class ModelLife:
    """The versions of one model.

    Args:
        name: The model's name.
        falls_back: If one of the latest versions is refused, the next lower one serves in its place.

    Attributes:
        policy: Chooses the versions that shall serve.
    """

    def __init__(self, name: str, *, falls_back: bool) -> None:
        self.name = name
        self.policy = VersionPolicy()
        self._falls_back = falls_back
        self._wanted_labels: dict[str, int] = {}
        # Versions by label that go before those of the settings, until these change.
        self.pins: dict[str, int] = {}
        # The version that keeps the label `stable` while another is compared with it; 0 for none.
        self.held = 0
        # A version that was loaded for a comparison and serves as well; 0 for none.
        self.beside = 0
        # Versions that `add` has noted since the last look at the folder.
        self._added: set[int] = set()
        self._labels: dict[str, int] = {}
        # Contents by version.
        self._there: dict[int, object] = {}
        self._coming: dict[int, Generation] = {}
        self._ready: dict[int, Generation] = {}
        self._draining: list[Generation] = []
        # The last generation of each version that was refused or unloaded.
        self._ended: dict[int, Generation] = {}

    def see(self, there: Mapping[int, object], policy: VersionPolicy, labels: Mapping[str, int] = _NO_LABELS) -> None:
        """Note what the folder shows.

        Args:
            there: Contents by version; none to unload the model.
            policy: Chooses those that shall serve.
            labels: Versions by label, which shall serve as well.
        """
        if dict(labels) != self._wanted_labels:
            self.pins = {}
            if labels.get(STABLE) != self._wanted_labels.get(STABLE):
                self.held = 0
        self._there, self.policy, self._wanted_labels = dict(there), policy, dict(labels)
        self._added.clear()
        gone = [version for version in self._ended if version not in self._there]
        unloaded = [version for version in gone if self._ended[version].state is State.UNLOADED]
        for version in {*gone} - {*unloaded[-_SHOWN:]}:
            del self._ended[version]

    @property
    def there(self) -> Mapping[int, object]:
        """Contents by version, as the folder was seen last."""
        return self._there

    def add(self, version: int, content: object) -> None:
        """Note a version of the folder that was not looked at before, or has changed; others stay as they were."""
        self._added |= {version} - self._there.keys()
        self._there[version] = content

    def take_back(self, version: int) -> None:
        """Undo `add`, unless the folder was seen since: then the policy decides on the version."""
        if version in self._added:
            self._added.remove(version)
            del self._there[version]
            if version in self._ready and version not in self._target():
                # Now, even while others that shall serve are loaded.
                self._drain(self._ready.pop(version))

    @property
    def wanted_labels(self) -> Mapping[str, int]:
        """Versions by label, as the settings have them."""
        return self._wanted_labels

    def retry(self, generation: Generation | None = None) -> None:
        """Try a generation again that was refused, if it still is; None for all."""
        for version, ended in [*self._ended.items()]:
            if ended.state is State.REFUSED and generation in (None, ended):
                del self._ended[version]

    def retry_version(self, version: int) -> None:
        """Try a version again if it was refused."""
        if (ended := self._ended.get(version)) is not None and ended.state is State.REFUSED:
            del self._ended[version]

    @property
    def chosen(self) -> set[int]:
        """Versions that the settings choose, without pins."""
        usable = {version for version in self._there if version in self._ready or not self._is_refused(version)}
        return self.policy.choose(usable if self._falls_back else [*self._there]) & usable

    @property
    def labels(self) -> dict[str, int]:
        """Versions by label. A label moves when its new version serves, and `stable` comes then.

        If nothing served before, `stable` stays while its version is loaded, though others serve by then.
        """
        before, self._labels = self._labels, {}
        for label, version in self._all_labels.items():
            kept = before.get(label, 0)
            is_awaited = label != STABLE or (kept == version and version in self._coming)
            if version in self._ready or not self._ready or (kept not in self._ready and is_awaited):
                self._labels[label] = version
            elif kept in self._ready:
                self._labels[label] = kept
        return dict(self._labels)

    def loads(self) -> list[Generation]:
        """Return the generations that have to be loaded now, the highest version first; each is returned once."""
        found = []
        for version in sorted(self._target(), reverse=True):
            content = self._there[version]
            ready = self._ready.get(version)
            is_new = ready is None or (ready.content != content and not self._is_refused(version))
            if version not in self._coming and is_new:
                self._coming[version] = generation = Generation(version, content)
                found.append(generation)
        return found

    def is_wanted(self, generation: Generation) -> bool:
        """Whether a load that comes is still to be served: its version shall serve, with this content."""
        version = generation.version
        return version in self._target() and self._there[version] == generation.content

    def loaded(self, generation: Generation) -> None:
        """Note that a load has ended well, and serves."""
        self._end_coming(generation)
        self._ended.pop(generation.version, None)
        generation.move(State.READY)
        if (before := self._ready.get(generation.version)) is not None:
            self._drain(before)
        self._ready[generation.version] = generation

    def renew(self, generation: Generation) -> None:
        """Note that a version that serves was loaded again from the same content, and serves so."""
        generation.move(State.READY)
        self._drain(self._ready[generation.version])
        self._ready[generation.version] = generation

    def refused(self, generation: Generation, reason: str) -> None:
        """Note that a load has failed, or that a version that serves cannot any more."""
        if self._ready.get(generation.version) is generation:
            del self._ready[generation.version]
        elif generation in self._draining:
            self._draining.remove(generation)
            return
        else:
            self._end_coming(generation)
        generation.move(State.REFUSED, reason)
        if not self._is_refused(generation.version):
            # Otherwise its changed files were refused already; this entry would let them be tried again.
            self._ended[generation.version] = generation

    def dropped(self, generation: Generation) -> None:
        """Note that a load has ended without use, as it is not wanted any more."""
        self._end_coming(generation)

    def unchanged(self, generation: Generation) -> None:
        """Note that a load is not needed: the version that serves has the same files, only with other times."""
        self._end_coming(generation)
        if (ready := self._ready.get(generation.version)) is not None:
            ready.content = generation.content

    def drains(self) -> list[Generation]:
        """Return the generations that have to be drained now; each is returned once."""
        target = self._target()
        if self._there and not (target and all(version in self._ready for version in target)):
            # Not all that shall serve do: what serves stays. An empty target with versions there: all were refused.
            superfluous: list[Generation] = []
        else:
            superfluous = [ready for version, ready in self._ready.items() if version not in target]
        for generation in superfluous:
            del self._ready[generation.version]
            self._drain(generation)
        begun = [generation for generation in self._draining if generation.state is State.READY]
        for generation in begun:
            generation.move(State.DRAINING)
        return begun

    def drained(self, generation: Generation) -> None:
        """Note that the memory of a generation is free."""
        self._draining.remove(generation)
        generation.move(State.UNLOADED)
        if generation.version not in self._ended or self._ended[generation.version].state is State.UNLOADED:
            self._ended[generation.version] = generation

    @property
    def is_settled(self) -> bool:
        """Whether nothing is being loaded or drained."""
        return not self._coming and not self._draining

    @property
    def is_loading(self) -> bool:
        """Whether a version is being loaded, or waits for it."""
        return bool(self._coming)

    @property
    def is_compared(self) -> bool:
        """Whether a version is compared with the one that keeps the label `stable`."""
        return bool(self.held)

    @property
    def serves(self) -> bool:
        """Whether a version serves."""
        return bool(self._ready)

    @property
    def is_known(self) -> bool:
        """Whether a version serves, is being loaded, or was refused."""
        return bool(self._ready or self._coming or self._ended)

    def serving(self, version: int) -> Generation | None:
        """Return the generation of a version that serves."""
        return self._ready.get(version)

    @property
    def reasons(self) -> dict[int, str]:
        """Why versions in the folder were refused."""
        return {version: self._ended[version].reason for version in sorted(self._there) if self._is_refused(version)}

    def states(self) -> Iterator[VersionState]:
        """Yield the state of each version that was ever to serve, by version."""
        draining = {generation.version: generation for generation in self._draining}
        for version in sorted({*self._coming, *self._ready, *draining, *self._ended}):
            coming, ready, ended = (of.get(version) for of in (self._coming, self._ready, self._ended))
            if ready is not None:
                yield VersionState(self.name, version, State.READY, _beside(coming, ended))
            else:
                shown = coming or draining.get(version) or ended
                assert shown is not None
                yield VersionState(self.name, version, shown.state, shown.reason)

    def _target(self) -> set[int]:
        """Return the versions that shall serve: the policy's and those with labels, without refused ones."""
        usable = {version for version in self._there if version in self._ready or not self._is_refused(version)}
        chosen = self.policy.choose(usable if self._falls_back else [*self._there])
        # A label that cannot move yet keeps its version.
        labelled = {*self._all_labels.values()} | {*self._labels.values()} & self._ready.keys()
        return (chosen | labelled | {self.beside}) & usable

    @property
    def _all_labels(self) -> dict[str, int]:
        held = {STABLE: self.held} if self.held else {}
        return self._wanted_labels | self.pins | held

    def _is_refused(self, version: int) -> bool:
        """Whether a version was refused with the content that it has."""
        ended = self._ended.get(version)
        return ended is not None and ended.state is State.REFUSED and ended.content == self._there.get(version)

    def _end_coming(self, generation: Generation) -> None:
        assert self._coming.pop(generation.version) is generation

    def _drain(self, generation: Generation) -> None:
        self._draining.append(generation)


def _beside(coming: Generation | None, ended: Generation | None) -> str:
    """Return what is to say of a version that serves, of its files that have changed since."""
    if coming is not None and coming.state in COMING:
        return f"its changed files are {coming.state.value}"
    if ended is not None and ended.state is State.REFUSED:
        return f"its changed files were refused: {ended.reason}"
    return ""
