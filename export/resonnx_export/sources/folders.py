"""Reads a library's folder: weights in one file or in shards, and the configuration files beside them."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from resonnx_export.checkpoints.files import SourceFile, load_checkpoint
from resonnx_export.class_names.objects import parse_json
from resonnx_export.errors import BadInput
from resonnx_export.networks.unrecorded import make_activation
from resonnx_export.sources import hugging_face, timm
from resonnx_export.sources.recorded import Recorded

CONFIG: Final = "config.json"
_PREPROCESSOR: Final = "preprocessor_config.json"
# In order of preference; an index names the shards.
_WEIGHTS: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OTHER_WEIGHTS: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pkl")
_MAX_JSON: Final = 32 << 20
_MAX_SHARDS: Final = 1000
_LISTED: Final = 5


def read_weights(folder: Path) -> tuple[dict[str, Tensor], tuple[SourceFile, ...], tuple[str, ...]]:
    """Return the tensors of a folder, the files that they are in, and notes. Raises BadInput."""
    name = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        try:
            others = sorted(path.name for path in folder.iterdir() if path.name.endswith(_OTHER_WEIGHTS))
        except OSError as error:
            raise BadInput(f"{folder} cannot be read: {error.strerror}") from None
        listed = f"; give one of its files: {', '.join(others[:_LISTED])}" if others else ""
        raise BadInput(f"{folder} is a folder without {', '.join(_WEIGHTS[::2])} or their index{listed}")
    if not name.endswith(".json"):
        checkpoint = load_checkpoint(folder / name)
        return checkpoint.state_dict, (checkpoint.file,), checkpoint.notes
    tensors: dict[str, Tensor] = {}
    files = []
    for shard in _shards(folder / name):
        checkpoint = load_checkpoint(folder / shard)
        if twice := next((key for key in checkpoint.state_dict if key in tensors), None):
            raise BadInput(f"{folder / name}: two shards have {twice}")
        tensors |= checkpoint.state_dict
        files.append(checkpoint.file)
    return tensors, tuple(files), (f"the weights are in {len(files)} shards",)


def _shards(index: Path) -> list[str]:
    content = read_json(index)
    names = content.get("weight_map")
    if not isinstance(names, Mapping) or not names:
        raise BadInput(f"{index} has no weight_map, which names the shards")
    shards = sorted({str(name) for name in names.values()})
    # Plain names: a shard is beside its index.
    if wrong := next((name for name in shards if not re.fullmatch(r"[\w-][\w.-]*", name)), None):
        raise BadInput(f"{index}: {wrong!r} is no file's name")
    if len(shards) > _MAX_SHARDS:
        raise BadInput(f"{index} names {len(shards)} shards; at most {_MAX_SHARDS} are read")
    return shards


def read_recorded(folder: Path) -> Recorded:
    """Return what the configuration files of a folder record.

    Raises:
        BadInput: A file is damaged, or the network is of another kind.
    """
    if not (folder / CONFIG).is_file():
        return Recorded(notes=(f"the folder has no {CONFIG}: labels and preprocessing are not recorded",))
    config = read_json(folder / CONFIG)
    try:
        return _read(folder, config)
    except BadInput as error:
        message = str(error)
        raise BadInput(message if message.startswith(str(folder)) else f"{folder / CONFIG} {message}") from None


def _read(folder: Path, config: Mapping[Any, Any]) -> Recorded:
    kind = config.get("model_type")
    if kind not in (None, hugging_face.RESNET, hugging_face.TIMM_WRAPPER):
        raise BadInput(
            f"{folder} is a folder of transformers' {kind!r}, not of its 'resnet'; try the library's own class: "
            f"{_own_class(folder)}"
        )
    if kind == hugging_face.RESNET:
        try:
            make_activation(hugging_face.activation(config))
        except ValueError:
            raise BadInput(
                f"{folder}: hidden_act is {str(config['hidden_act'])[:40]!r}, which is not built from a checkpoint; "
                f"export the library's own class: {_own_class(folder)}"
            ) from None
    return recorded_by(folder, config)


def _own_class(folder: Path) -> str:
    return f"resonnx-export module {shlex.quote(f'transformers:{folder}')} --repository models --name NAME"


def recorded_by(folder: Path, config: Mapping[Any, Any]) -> Recorded:
    """Return what a config.json and the files beside it record, of a network of any kind. Raises BadInput."""
    kind = config.get("model_type")
    of_timm = kind != hugging_face.RESNET and ("architecture" in config or "pretrained_cfg" in config)
    recorded = timm.read_config(config) if of_timm else hugging_face.read_config(config)
    if recorded.pictures is None and (folder / _PREPROCESSOR).is_file():
        pictures = hugging_face.read_preprocessor(read_json(folder / _PREPROCESSOR), _PREPROCESSOR)
        recorded = replace(recorded, pictures=pictures)
    return recorded


def read_json(path: Path) -> Mapping[Any, Any]:
    """Read a configuration file. Raises BadInput if it is no JSON object, or larger than 32 MiB."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_JSON + 1)
        if len(content) > _MAX_JSON:
            raise BadInput(f"has more than {_MAX_JSON >> 20} MiB: it is no configuration file")
        found = parse_json(content.decode("utf-8-sig"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{path} is no JSON file: {error}") from None
    except BadInput as error:
        raise BadInput(f"{path} {error}") from None
    if not isinstance(found, Mapping):
        raise BadInput(f"{path} holds no JSON object")
    return found
