"""What fronts see of the repository's life: the states of versions, and loading and unloading by rpc."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from resonnx_server.config import ModelSettings


class State(Enum):
    """The state of a model's version; repository/life/generation.py draws their order."""

    FOUND = "found"
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    REFUSED = "refused"


# States of a version that is on its way to serve.
COMING = (State.FOUND, State.VERIFYING, State.LOADING, State.WARMING)


@dataclass(frozen=True)
class VersionState:
    """A version and its state.

    Attributes:
        name: The model's name.
        version: Its number; 0 for a model whose folder has no version.
        state: Its state. A version that serves while its changed files are loaded is READY.
        reason: Why it was refused, or why it is in this state; may be empty.
    """

    name: str
    version: int
    state: State
    reason: str = ""


class RepositoryControl(Protocol):
    """Loads and unloads models on request. Event loop only."""

    async def load(self, name: str, settings: ModelSettings | None = None) -> None:
        """Read a model's folder, and serve the versions that its policy chooses; return when all serve or are refused.

        A model that serves is compared with its files: what has changed is loaded again, and replaces what it was when
        it is ready. Concurrent calls for one model take turns.

        Args:
            name: The model's name.
            settings: In place of those of its folder and the server's file, until the next load; None for these.

        Raises:
            NotFound: The repository has no such model.
            ModelRefused: A version was refused; what served before serves on.
            NotSupported: Models are not loaded on request (control_mode).
            Unavailable: The server is shutting down.
        """

    async def unload(self, name: str) -> None:
        """Stop serving a model; return when the requests that it was serving are answered and its memory is free.

        Raises:
            NotFound: No such model is known.
            NotSupported: Models are not unloaded on request (control_mode).
            Unavailable: The server is shutting down.
        """

    async def add_beside(self, name: str, version: int) -> None:
        """Load a version beside the one that answers calls without a version, which goes on doing so.

        It is read from its folder if it is not loaded; other versions stay as they are.

        Raises:
            NotFound: No version of the model serves, or its folder has no such version.
            ModelRefused: The version was refused.
            Unavailable: The server is shutting down.
        """

    async def promote(self, name: str, version: int) -> None:
        """Let a version that serves answer calls without a version.

        The one that did is drained by its lease, unless the model's version_policy or labels keep it. It stays so until
        the model's labels are changed.

        Raises:
            NotFound: The version does not serve any more.
        """

    async def withdraw(self, name: str, version: int, reason: str) -> None:
        """Drain a version by its lease and refuse it with a reason until its files change.

        Calls without a version are answered as before the version was added.
        """

    async def take_back(self, name: str, version: int, reason: str = "") -> None:
        """Let a model serve as before a version was added; a version that served before goes on serving.

        Args:
            name: The model's name.
            version: The version that was added.
            reason: Why it is not proven. With one, it is refused until its files change even if version_policy chooses
                it, unless no other version serves or a label of the settings names it.
        """

    def states(self) -> list[VersionState]:
        """Return the versions that are known, by name and version."""
