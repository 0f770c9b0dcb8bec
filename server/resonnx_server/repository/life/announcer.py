"""What is told of loads: to the health service, the log and the user."""

from typing import Final, Protocol

from resonnx_server.inference.registry import Model
from resonnx_server.inference.repository_control import State
from resonnx_server.repository.loading.load import ModelLoad
from resonnx_server.scheduling.replacement import Event

# By the stages of repository/progress.py.
STAGES: Final = {
    "verifying": State.VERIFYING,
    "trying": State.VERIFYING,
    "opening": State.LOADING,
    "checking": State.LOADING,
    "measuring": State.WARMING,
}


class Announcer(Protocol):
    """Tells the health service, the log and the user. All but `reached` on the event loop."""

    def reached(self, load: ModelLoad) -> None:
        """A load began a stage; on any thread."""

    def loaded(self, load: ModelLoad, model: Model) -> None:
        """A model serves, in place of one of the same name and version."""

    def refused(self, load: ModelLoad, reason: str) -> None:
        """A version was refused."""

    def session_event(self, model: Model, event: Event) -> None:
        """Something happened to a model's session."""

    def update(self) -> None:
        """The registry has changed."""
