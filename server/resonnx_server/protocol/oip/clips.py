"""Clips in the tensor protocol: frames or features [N,T,...], and the lengths of clips that are padded.

All frames are read: the model's sampling is the caller's, as the resizing of pixels is.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from resonnx_server.errors import InvalidInput
from resonnx_server.inference.pictures import AnyPictures, DecodedPictures, Frames
from resonnx_server.inference.registry import Model
from resonnx_server.inference.tensors import Tensors
from resonnx_server.inference.videos.clips import check_frames
from resonnx_server.protocol.oip import describe
from resonnx_server.protocol.oip.contents import InputTensor, field_of
from resonnx_server.runtime.session import Array
from resonnx_server.runtime.video.graphs import FEATURES

_LENGTHS: Final = describe.LENGTHS.name
_Shape = tuple[int, ...]


def check_clips(tensor: InputTensor, shape: _Shape, dtype: np.dtype[Any], model: Model) -> _Shape:
    """Return the shape of an input of a video classifier with the axis of clips, which a single clip may leave out.

    Raises:
        InvalidInput: The model takes no such input.
    """
    field, spec = field_of(tensor), describe.LENGTHS if tensor.name == _LENGTHS else model.inputs[0]
    is_file = dtype.hasobject and model.pictures is not None and spec is not describe.LENGTHS
    if not is_file and (dtype != spec.dtype or tensor.name != spec.name):
        taken = describe.DATATYPES[spec.dtype]
        if model.pictures is not None and spec is not describe.LENGTHS:
            taken = f"{taken} pixels as {spec.name!r}, or BYTES files"
        raise InvalidInput(f"{field}.datatype", f"{describe.DATATYPES[dtype]}; the model takes {taken}")
    if spec is describe.LENGTHS:
        if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)) or shape[0] < 1:
            raise InvalidInput(f"{field}.shape", f"{list(shape)}; it must be [N] or [N, 1]")
        return shape[:1]
    row = () if is_file else spec.shape[2:]
    whole = shape if len(shape) == 2 + len(row) else (1, *shape)
    if whole[2:] != row or len(whole) != 2 + len(row) or min(whole[:2]) < 1:
        taken = ", ".join(["N", "T", *map(str, row)])
        raise InvalidInput(f"{field}.shape", f"{list(shape)}; {tensor.datatype} must be [{taken}] with N and T >= 1")
    check_frames(model, whole[1], f"{field}.shape")
    if whole[0] > 1 and (frames := math.prod(whole[:2])) > model.max_queue_size:
        most = f"{frames} frames of several clips, more than {model.max_queue_size} (max_queue_size)"
        raise InvalidInput(f"{field}.shape", most)
    return whole


def clips_of(inputs: Tensors) -> tuple[AnyPictures | Array, list[int]]:
    """Return the frames of all clips, one clip after the other, and the number of each clip's.

    Args:
        inputs: Checked by `check_clips`, one by one.

    Raises:
        InvalidInput: There are no frames, lengths do not fit them, or features are not finite.
    """
    names = [name for name in inputs if name != _LENGTHS]
    if not names:
        raise InvalidInput("inputs", f"only {_LENGTHS!r} is given; frames are missing")
    (name,) = names
    given = inputs[name]
    lengths = _lengths(inputs.get(_LENGTHS), *given.shape[:2])
    if given.dtype.hasobject:
        files, fields = [], []
        for i, t in _positions(lengths):
            files.append(given[i, t])
            fields.append(f"inputs[{name!r}][{i},{t}]")
        return Frames(files, fields), lengths
    if all(length == given.shape[1] for length in lengths):
        frames = given.reshape(-1, *given.shape[2:])
    else:
        frames = np.concatenate([clip[:length] for clip, length in zip(given, lengths, strict=True)])
    if name != FEATURES:
        return DecodedPictures(frames, len(frames)), lengths
    if not np.isfinite(frames).all():
        raise InvalidInput(f"inputs[{name!r}]", "it has NaN or infinity")
    return frames, lengths


def _positions(lengths: list[int]) -> Iterator[tuple[int, int]]:
    return ((i, t) for i, length in enumerate(lengths) for t in range(length))


def _lengths(given: Array | None, clips: int, frames: int) -> list[int]:
    if given is None:
        return [frames] * clips
    lengths: list[int] = given.tolist()
    if len(lengths) != clips:
        raise InvalidInput(f"inputs[{_LENGTHS!r}].shape", f"{len(lengths)} lengths of {clips} clips")
    for i, length in enumerate(lengths):
        if not 1 <= length <= frames:
            raise InvalidInput(f"inputs[{_LENGTHS!r}]", f"{length} of clip {i} is not within 1..{frames}")
    return lengths
