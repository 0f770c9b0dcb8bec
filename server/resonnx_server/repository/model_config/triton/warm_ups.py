"""Reads the warm-up requests of a Triton model configuration, with the files of their inputs."""

from pathlib import Path
from typing import Final

from resonnx_proto.inference import model_config_pb2 as pb

from resonnx_server.declaration import WarmUp, WarmUpInput
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.triton.text import Text, place
from resonnx_server.runtime.model_files.files import NotReadable, read_inside

# The folder of their files, in the model's folder.
_FOLDER: Final = "warmup"
_MAX_FILE_BYTES: Final = 64 << 20
_MOST_SAMPLES: Final = 64
_MOST_RUNS: Final = 1000


def warm_ups(text: Text, folder: Path, max_batch_size: int) -> tuple[WarmUp, ...]:
    """Return the warm-up requests.

    Args:
        text: The configuration.
        folder: The model's.
        max_batch_size: The model's.

    Raises:
        ModelRefused: One is incomplete or too large, or its file cannot be read.
    """
    samples = text.message.model_warmup
    if len(samples) > _MOST_SAMPLES:
        raise text.refused(f"model_warmup has {len(samples)} samples; {_MOST_SAMPLES} are run", "model_warmup")
    return tuple(_warm_up(text, number, folder, max_batch_size) for number in range(len(samples)))


def _warm_up(text: Text, number: int, folder: Path, max_batch_size: int) -> WarmUp:
    sample = text.message.model_warmup[number]

    def refused(reason: str) -> ModelRefused:
        return text.refused(f"model_warmup {sample.name!r}: {reason}", "model_warmup", number=number)

    rows, most = sample.batch_size or 1, max(1, max_batch_size)
    if rows > most:
        raise refused(f"batch_size is {rows}; at most {most} is allowed")
    if sample.count > _MOST_RUNS:
        raise refused(f"count is {sample.count}; at most {_MOST_RUNS} is allowed")
    inputs = {}
    for name, given in sorted(sample.inputs.items()):
        try:
            inputs[name] = _input(given, folder)
        except ModelRefused as error:
            raise refused(f"input {name!r}: {error.message}") from None
    where = place(text.fields.line("model_warmup", number=number))
    return WarmUp(sample.name, rows if max_batch_size else 0, sample.count or 1, inputs, where)


def _input(given: pb.ModelWarmup.Input, folder: Path) -> WarmUpInput:
    datatype = pb.DataType.Name(given.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
    dims = tuple(given.dims)
    match given.WhichOneof("input_data_type"):
        case "zero_data":
            return WarmUpInput(datatype, dims, "zeros")
        case "random_data":
            return WarmUpInput(datatype, dims, "random")
        case "input_data_file":
            return WarmUpInput(datatype, dims, "file", _read(folder, given.input_data_file))
    raise ModelRefused("needs zero_data, random_data or input_data_file")


def _read(folder: Path, name: str) -> bytes:
    shown = repr(f"{_FOLDER}/{name[:200]}")
    try:
        return read_inside(folder, f"{_FOLDER}/{name}", _MAX_FILE_BYTES)
    except FileNotFoundError:
        raise ModelRefused(f"there is no file {shown} in the model's folder") from None
    except OSError as error:
        raise ModelRefused(f"{shown} cannot be read: {error.strerror}") from None
    except NotReadable as error:
        raise ModelRefused(f"{shown} {error}") from None
