"""Places a captioner's states and features between steps: in device memory on a GPU, or in host memory.

Device memory saves copies at every step. It is used only if golden pictures are captioned correctly that way.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec

from resonnx_server.captioning.device_slots import device_slots
from resonnx_server.captioning.request import CaptionTask
from resonnx_server.captioning.slots import Slots, host_slots
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.binding import DeviceTensor, to_device
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.decoding.greedy import Greedy
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Sequence as Caption
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.runtime.device_state import RowGraph, open_row_graphs, with_device_state
from resonnx_server.runtime.graphs import Captioner, CaptionerGraphs, D
from resonnx_server.runtime.model_files.golden_examples import Golden, judge_captions
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.measurement import sizes_up_to

_log = logging.getLogger(__name__)

# Devices with memory of their own.
_APART: Final = ("cuda",)
# Limits of the decode slots: captions, and bytes of their states and features.
_MAX_SLOTS: Final = 64
_MAX_SLOT_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class PlacedCaptioner:
    """A captioner's graphs, and the decode slots with their inputs in the same memory."""

    graphs: Captioner[Any]
    slots: Slots[CaptionTask, Any]


def place_state(files: VersionFiles, graphs: CaptionerGraphs, golden: Golden, bound: float) -> PlacedCaptioner:
    """Return graphs and slots with the states on the device if that works, else in host memory.

    Args:
        files: The version's files.
        graphs: On the chosen candidates.
        golden: Expected captions.
        bound: Largest deviation of log-probabilities, as in judge_captions.
    """
    state, features, _ = graphs.encode(golden.images[:1])
    capacity = _slot_count(state, features)
    if graphs.encoder.device == graphs.decoder.device and graphs.decoder.device in _APART:
        try:
            placed = on_device(files, graphs, (state, features), capacity)
            found = decode_in_slots(placed.graphs, placed.slots, golden.images, files.manifest.captioner)
            verdict = judge_captions(golden, found, bound)
            if verdict.passed:
                _log.info("captions stay on the GPU between steps", extra={"verdict": verdict.detail})
                return placed
            reason = verdict.detail
        except ModelRefused as error:
            reason = error.message
        except Exception as error:  # ONNX Runtime's errors share no base class
            reason = str(error)
        Cancellation.check()
        _log.warning("captions are copied to host memory between steps", extra={"reason": reason})
    return PlacedCaptioner(graphs, host_slots(capacity, state, features))


def on_device(
    files: VersionFiles,
    graphs: CaptionerGraphs,
    encoded: tuple[Sequence[Array], Sequence[Array]],
    capacity: int,
) -> PlacedCaptioner:
    """Return graphs and slots with states and features on the decoder's device.

    Args:
        files: The version's files.
        graphs: Both on one device.
        encoded: States and features [n, ...] of the encoder, for their shapes and dtypes.
        capacity: Number of slots.

    Raises:
        ModelRefused: The version has no row graphs, or they do not load.
    """

    def blank(arrays: Sequence[Array]) -> list[DeviceTensor]:
        return [to_device(np.zeros((1, *a.shape[1:]), a.dtype), graphs.decoder.device) for a in arrays]

    order: tuple[RowGraph, RowGraph | None] = open_row_graphs(files.files, graphs)
    state, features = encoded
    slots: Slots[CaptionTask, DeviceTensor] = device_slots(capacity, blank(state), blank(features), *order)
    return PlacedCaptioner(with_device_state(graphs), slots)


@dataclass(eq=False)
class _Picture:
    search: Greedy
    rows: list[int] = field(default_factory=list)


def decode_in_slots(graphs: Captioner[D], slots: Slots[Any, D], images: Pixels, spec: CaptionerSpec) -> list[Caption]:
    """Caption uint8 pictures [N,H,W,3] as greedy.decode_all does, but in slots, which are free before and after.

    One picture joins at each step, so that rows join, leave and move.
    """
    state, features, first_log_probs = graphs.encode(images)
    pictures = [_Picture(Greedy(spec, DecodeOptions(max_tokens=spec.max_tokens))) for _ in images]
    if first_log_probs is not None:
        output = StepOutput.of_log_probs(first_log_probs)
        for row, picture in enumerate(pictures):
            picture.search.advance(output, [row])
    coming = [(row, picture) for row, picture in enumerate(pictures) if not picture.search.finished]
    while coming or len(slots):
        if coming and len(slots) < slots.capacity:
            row, picture = coming.pop(0)
            slots.join(picture, picture.search.tokens, state, features, row)
        size = next(size for size in sizes_up_to(slots.capacity) if size >= len(slots))
        step = graphs.step(*slots.inputs(size))
        output = StepOutput.of_step(step)
        slots.store(step.state)
        for picture in list(slots.owners):
            sources = picture.search.advance(output, picture.rows)
            if not picture.search.finished:
                slots.advance(picture, sources, picture.search.tokens)
        for picture in [picture for picture in slots.owners if picture.search.finished]:
            slots.leave(picture)
    return [picture.search.ranked()[0][0] for picture in pictures]


def _slot_count(state: Sequence[Array], features: Sequence[Array]) -> int:
    bytes_per_row = sum(int(array[0].nbytes) for array in (*state, *features))
    return max(1, min(_MAX_SLOTS, _MAX_SLOT_BYTES // max(1, bytes_per_row)))
