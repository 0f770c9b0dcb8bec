"""A config.pbtxt in a folder, and what is taken from it."""

from pathlib import Path

from resonnx_server.config import ModelSettings, Settings
from resonnx_server.declaration import Declaration
from resonnx_server.repository.model_config.settings import settings_of


def write_pbtxt(folder: Path, text: str, name: str = "m") -> Path:
    folder = folder / name
    folder.mkdir(exist_ok=True)
    (folder / "config.pbtxt").write_text(text)
    (folder / "labels.txt").write_text("tench\ngoldfish\n\nhammerhead\r\n")
    return folder


def settings_in(tmp_path: Path, text: str, name: str = "m") -> ModelSettings:
    return settings_of(write_pbtxt(tmp_path, text, name), name, Settings(repository=tmp_path))


def declared_by(settings: ModelSettings) -> Declaration:
    assert settings.declaration is not None
    return settings.declaration


X = 'name: "x" data_type: TYPE_FP32'
