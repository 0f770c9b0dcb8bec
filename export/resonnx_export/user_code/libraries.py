"""Makes modules of timm, torchvision, transformers and lightning, where the user has these libraries."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from torch import nn

from resonnx_export.checkpoints.files import read_tree
from resonnx_export.checkpoints.pickles import Stub
from resonnx_export.class_names.names import ClassNames
from resonnx_export.errors import BadInput
from resonnx_export.sources.folders import CONFIG, read_json, recorded_by
from resonnx_export.sources.recorded import Recorded
from resonnx_export.sources.timm import read_config
from resonnx_export.user_code.objects import load_object, make_module
from resonnx_export.user_code.running import running

_LISTED: Final = 8


@dataclass(frozen=True)
class Request:
    """What a library makes a module of.

    Attributes:
        name: The TARGET's part after the colon.
        arguments: Keyword arguments of the constructor.
        classes: The number of labels, None if it is not known yet.
        checkpoint: The file that will be loaded, None if the library has the weights.
    """

    name: str
    arguments: Mapping[str, Any]
    classes: int | None
    checkpoint: Path | None


@dataclass(frozen=True)
class Made:
    """A module of a library.

    Attributes:
        folder: Where its weights are, if they are on disk.
        recorded: Preprocessing and labels of the library's configuration.
        notes: Lines for the user.
    """

    module: nn.Module
    folder: Path | None = None
    recorded: Recorded = field(default_factory=Recorded)
    notes: tuple[str, ...] = ()


def _imported(library: str, *alternatives: str) -> ModuleType:
    for name in (library, *alternatives):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise BadInput(f"{name} cannot be imported: {error}") from None
        except Exception as error:
            raise BadInput(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    raise BadInput(f"{library} is not installed here: pip install {library.partition('.')[0]}")


def _sized(request: Request, *pretrained: str) -> dict[str, Any]:
    """Return the arguments, with the number of classes for weights that come from a checkpoint.

    Raises:
        BadInput: Nothing gives weights; they would be random.
    """
    arguments = dict(request.arguments)
    if request.checkpoint is None and not any(arguments.get(name) for name in pretrained):
        raise BadInput(f"{request.name} has random weights: give --checkpoint FILE, or --set {pretrained[0]}=...")
    if request.checkpoint is not None and request.classes is not None:
        arguments.setdefault("num_classes", request.classes)
    return arguments


def _near(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, names, _LISTED)
    return f"; it has {', '.join(close)}" if close else ""


def _timm(request: Request) -> Made:
    timm = _imported("timm")
    folder = Path(request.name) if (Path(request.name) / CONFIG).is_file() else None
    if folder is not None:
        name, arguments = f"local-dir:{folder}", dict(request.arguments)
    else:
        name, arguments = request.name, _sized(request, "pretrained")
        if ":" not in name and not timm.is_model(name):
            raise BadInput(f"timm has no model {name!r}{_near(name, timm.list_models())}")
    with running(f"timm.create_model({name!r})"):
        module = timm.create_model(name, **arguments)
    config = dict(getattr(module, "pretrained_cfg", None) or {})
    recorded = read_config({"architecture": config.get("architecture") or name, "pretrained_cfg": config})
    tag = ".".join(filter(None, (recorded.architecture, config.get("tag"))))
    published = bool(arguments.get("pretrained"))
    pictures = recorded.pictures and recorded.pictures._replace(
        source=f"timm's pretrained_cfg of {tag}", of_these_weights=published or folder is not None
    )
    labels = recorded.labels or (_imagenet_labels(timm, module) if published else None)
    return Made(module, folder, replace(recorded, pictures=pictures, labels=labels, labels_from="timm"))


def _imagenet_labels(timm: ModuleType, module: nn.Module) -> ClassNames | None:
    """Return the names of timm's published ImageNet weights; None for other data sets and older versions of timm."""
    with suppress(Exception):
        if subset := timm.data.infer_imagenet_subset(module):
            info = timm.data.ImageNetInfo(subset)
            return ClassNames(tuple(info.index_to_description(number) for number in range(info.num_classes())))
    return None


def _torchvision(request: Request) -> Made:
    models = _imported("torchvision.models")
    arguments = _sized(request, "weights")
    if request.name not in models.list_models():
        raise BadInput(f"torchvision has no model {request.name!r}{_near(request.name, models.list_models())}")
    with running(f"torchvision.models.get_model({request.name!r})"):
        return Made(models.get_model(request.name, **arguments))


def _transformers(request: Request) -> Made:
    transformers = _imported("transformers")
    folder = Path(request.name)
    if not (folder / CONFIG).is_file():
        if folder.is_dir():
            raise BadInput(f"{folder} has no config.json: it is no folder of save_pretrained")
        hub = _imported("huggingface_hub")
        try:
            folder = Path(hub.snapshot_download(request.name, local_files_only=True))
        except Exception as error:
            raise BadInput(
                f"{request.name!r} is no folder, and not in the local cache ({type(error).__name__}); nothing is "
                "downloaded"
            ) from error
    with running(f"transformers, from {folder / 'config.json'}"):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **request.arguments)
        module = transformers.AutoModelForImageClassification.from_config(config)
    return Made(module, folder, recorded_by(folder, read_json(folder / CONFIG)))


def _lightning(request: Request) -> Made:
    lightning = _imported("lightning.pytorch", "pytorch_lightning")
    made = load_object(request.name)
    if not isinstance(made, type) or not issubclass(made, lightning.LightningModule):
        raise BadInput(f"{request.name} is no subclass of LightningModule")
    content = read_tree(request.checkpoint)[0] if request.checkpoint else None
    arguments, notes = _hyper_parameters(content, made)
    return Made(make_module(made, {**arguments, **request.arguments}, request.name), notes=notes)


def _hyper_parameters(content: object, made: type) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the constructor's arguments that save_hyperparameters() stored, and a note about those of other types."""
    stored = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    stored = stored.items if isinstance(stored, Stub) and stored.items is not None else stored
    if not isinstance(stored, Mapping):
        return {}, ()
    parameters = inspect.signature(made).parameters.values()
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    taken = {key: value for key, value in stored.items() if open_ended or any(key == each.name for each in parameters)}
    plain = {key: value for key, value in taken.items() if _is_plain(value)}
    left = sorted(str(key) for key in taken if key not in plain)
    notes = (
        [f"hyper-parameters of the checkpoint: {', '.join(f'{k}={v!r}' for k, v in plain.items())}"] if plain else []
    )
    if left:
        notes.append(f"hyper-parameters that are objects were not read: {', '.join(left)}; --set gives others")
    return plain, tuple(notes)


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


LIBRARIES: Final[Mapping[str, Callable[[Request], Made]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "lightning": _lightning,
}
