"""Loads of made-up models, each of which acts as its test says, and an observer of them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.loading.load import ModelLoad
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder

# Time limit of events that must happen, however slow the machine.
LONG_S = 60.0

# A model that serves at once, after which others are loaded side by side. Nothing is told of it.
CACHED = "cached"

Act = Callable[[Progress], object]


class Loader:
    """Loads each model by the act of its name; a model without one serves at once."""

    def __init__(self, **acts: Act) -> None:
        self.acts = acts
        self.begun: list[str] = []

    def load(self, folder: ModelFolder, progress: Progress) -> Callable[[], Any]:
        if folder.name != CACHED:
            self.begun.append(folder.name)
        progress.reach("verifying")
        self.acts.get(folder.name, lambda _: None)(progress)
        return lambda: SimpleNamespace(name=folder.name)


class Observer:
    """Keeps the events of loads."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.stages: list[tuple[str, str]] = []

    def reached(self, load: ModelLoad) -> None:
        if load.folder.name != CACHED:
            self.stages.append((load.folder.name, load.progress.stage))

    def loaded(self, load: ModelLoad, start: Callable[[], Any]) -> None:
        assert start().name == load.folder.name
        if load.folder.name != CACHED:
            self.told[load.folder.name] = "serves"

    def refused(self, load: ModelLoad, error: ModelRefused) -> None:
        self.told[load.folder.name] = error.message

    def unchanged(self, load: ModelLoad) -> None:
        self.told[load.folder.name] = "serves already"


@contextmanager
def hung() -> Iterator[Act]:
    """An act that does not end, as a run inside a kernel does not, until the test does."""
    over = threading.Event()
    try:
        yield lambda _: over.wait(LONG_S)
    finally:
        over.set()


def folders(*names: str, nbytes: int = 0) -> list[ModelFolder]:
    return [ModelFolder(name, 1, Path(), nbytes) for name in names]


def fails(error: Exception) -> Act:
    """An act that raises."""

    def act(_: Progress) -> None:
        raise error

    return act
