"""Reads config.pbtxt, the Triton model configuration in a model's folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resonnx_server.declaration import Declaration
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.triton.batching import batch_settings
from resonnx_server.repository.model_config.triton.tensors import declared_inputs, declared_outputs
from resonnx_server.repository.model_config.triton.text import CONFIG_PBTXT, Text, parse, place
from resonnx_server.repository.model_config.triton.warm_ups import warm_ups
from resonnx_server.runtime.model_files.files import NotReadable, read_regular

_MAX_BYTES: Final = 1 << 18
_BACKENDS: Final = ("", "onnxruntime")
_PLATFORMS: Final = ("", "onnxruntime_onnx")


@dataclass(frozen=True)
class Configuration:
    """What a config.pbtxt gives: settings by name, and what it declares of the graph."""

    settings: dict[str, Any]
    declaration: Declaration


def read_config_pbtxt(folder: Path, name: str) -> Configuration | None:
    """Return what the config.pbtxt of the model `name` gives; None if there is no such file.

    Raises:
        ModelRefused: It cannot be read or parsed, contradicts itself, is another model's, or needs what is not served.
    """
    try:
        content = read_regular(folder / CONFIG_PBTXT, _MAX_BYTES).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelRefused(f"{CONFIG_PBTXT} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise ModelRefused(f"{CONFIG_PBTXT} {error}") from None
    except UnicodeDecodeError as error:
        raise ModelRefused(f"{CONFIG_PBTXT} is not UTF-8: byte {error.start}") from None
    return configuration(parse(content), folder, name)


def configuration(text: Text, folder: Path, name: str) -> Configuration:
    """Return what a parsed configuration gives. Raises ModelRefused as read_config_pbtxt."""
    message = text.message
    _check_kind(text, name)
    settings, remarks = batch_settings(text)
    batched = settings.get("max_batch_size", 1)
    declaration = Declaration(
        declared_inputs(text, batched),
        declared_outputs(text, folder),
        _file_name(text, "default_model_filename", message.default_model_filename),
        {
            capability: _file_name(text, "cc_model_filenames", file)
            for capability, file in message.cc_model_filenames.items()
        },
        warm_ups(text, folder, batched),
        ignored=(*text.ignored, *remarks, *_without_effect(text)),
    )
    return Configuration(settings, declaration)


def _check_kind(text: Text, name: str) -> None:
    """Raise ModelRefused unless it is the configuration of an ONNX model of this name."""
    message = text.message
    if message.name not in ("", name):
        raise text.refused(f"name is {message.name!r}, and the folder {name!r}: they must be equal", "name")
    if message.backend not in _BACKENDS:
        raise text.refused(f"backend {message.backend!r} is not supported: onnxruntime is", "backend")
    if message.platform not in _PLATFORMS:
        raise text.refused(f"platform {message.platform!r} is not supported: onnxruntime_onnx is", "platform")
    if message.model_transaction_policy.decoupled:
        raise text.refused(
            "model_transaction_policy: decoupled is not supported: each request has one answer",
            "model_transaction_policy",
        )
    if message.runtime and not message.runtime.startswith("libtriton_onnxruntime"):
        raise text.refused(f"runtime {message.runtime!r} is not supported: ONNX Runtime's is", "runtime")


def _file_name(text: Text, field: str, name: str) -> str:
    """Return the name of a file in a version's folder. Raises ModelRefused if it is none."""
    if name and (name in (".", "..") or "/" in name or not name.isprintable()):
        raise text.refused(f"{field}: {name[:200]!r} is not a name of a file in the version's folder", field)
    return name


def _without_effect(text: Text) -> Iterator[str]:
    """Yield fields that have no effect because of their values."""
    message, line = text.message, text.fields.line
    for key in sorted(message.parameters):
        where = place(line("parameters"))
        yield f"{where}: parameters[{key[:64]!r}] has no effect: it is of Triton's ONNX Runtime backend"
    if message.response_cache.enable:
        yield f"{place(line('response_cache'))}: response_cache has no effect: answers are not cached"
    if message.runtime:
        yield f"{place(line('runtime'))}: runtime has no effect: it is a file of Triton's"
