"""What a version is loaded from: its files, and the settings of its model. Reads files, so never on the event loop."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.life.survey import Seen, Stamp, look_at
from resonnx_server.repository.model_config.settings import settings_of

# Of a model, and not of a version that is loaded.
_OF_THE_MODEL: Final = {"version_policy", "labels"}
# Files whose content comes in the settings.
_SETTINGS: Final = ("config.toml", "config.pbtxt")


@dataclass(frozen=True)
class Content:
    """What a version is loaded from. Equal ones are the same files, with the same times, and the same settings.

    Attributes:
        stamp: Its files; None if they could not be looked at.
        beside: Other files in the model's folder.
        configured: The settings that it is loaded with, as text; or why there are none.
        settings: The same settings; None if there are none.
    """

    stamp: Stamp | None
    beside: Stamp
    configured: str
    settings: ModelSettings | None = field(compare=False)

    @property
    def nbytes(self) -> int:
        """Size of the version's files, as far as it is known."""
        return 0 if self.stamp is None else self.stamp.nbytes


@dataclass(frozen=True)
class Looked:
    """A model's folder and settings.

    Attributes:
        contents: By version. A model without a version has version 0.
        settings: The model's; None if they could not be read.
    """

    contents: dict[int, Content]
    settings: ModelSettings | None


UNREADABLE: Final = Looked({0: Content(None, Stamp(()), "the model's folder cannot be read", None)}, None)


def contents_of(
    folder: Path, server: Settings, override: ModelSettings | None = None, seen: Seen | None = None
) -> Looked | None:
    """Look at a model; None if there is no such folder, or it cannot be read.

    Args:
        folder: The model's folder.
        server: The server's settings.
        override: In place of the model's settings.
        seen: What the folder shows, if it was looked at before.
    """
    seen = seen or look_at(folder)
    if seen is None:
        return None
    settings = override
    try:
        settings = settings or settings_of(folder, folder.name, server)
        configured = settings.model_dump_json(exclude=_OF_THE_MODEL)
    except ModelRefused as error:
        configured = error.message
    beside = Stamp(tuple(file for file in seen.beside.files if file[0] not in _SETTINGS))
    stamps = seen.versions or {0: None}
    contents = {version: Content(stamp, beside, configured, settings) for version, stamp in stamps.items()}
    return Looked(contents, settings)
