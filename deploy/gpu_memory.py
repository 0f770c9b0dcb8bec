"""Checks of a GPU that need no server: states of captions that stay on it, and batches in page-locked memory."""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.repository.captioner.state_placement import decode_in_slots, on_device
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import Captioner, CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.model_files.golden_examples import judge_captions, parse_golden
from resonnx_server.runtime.model_files.manifest import (
    CLASSIFIER_FILE,
    DECODER_FILE,
    ENCODER_FILE,
    GOLDEN,
    read_version,
)
from resonnx_server.runtime.page_locked import PageLockedMemory, loaded_library
from resonnx_server.runtime.session import PROVIDERS, Candidate, Session

_SLOTS: Final = 16
_REPEATS: Final = 30
# cudaMemoryTypeHost: what cudaPointerGetAttributes says of page-locked memory.
_PAGE_LOCKED: Final = 1


class Skipped(Exception):
    """A check that does not apply here; the message says why."""


def device_state(models: Path, provider: str) -> str:
    """Caption golden pictures with states on the device, and time a decoder step with both placements."""
    files = read_version(models / "scenes/1")
    golden = parse_golden(files.files[GOLDEN], files.manifest)
    candidate = Candidate(PROVIDERS[provider], pb.PRECISION_FP32)
    encoder, decoder = (Session(files.files[name], candidate, 2) for name in (ENCODER_FILE, DECODER_FILE))
    graphs = CaptionerGraphs(encoder, decoder, files.manifest)
    state, features, _ = graphs.encode(golden.images[:1])
    placed = on_device(files, graphs, (state, features), _SLOTS)
    bound = max(each.max_deviation for each in files.manifest.precisions)
    for found in (
        decode_all(graphs, golden.images, files.manifest.captioner),
        decode_in_slots(placed.graphs, placed.slots, golden.images, files.manifest.captioner),
    ):
        verdict = judge_captions(golden, found, bound)
        if not verdict.passed:
            raise RuntimeError(verdict.detail)
    images = np.resize(golden.images, (_SLOTS, *golden.images.shape[1:]))
    on_host, on_gpu = (_step_ms(each, images) for each in (graphs, placed.graphs))
    return f"{verdict.detail}; a step of {_SLOTS} rows takes {on_host:.2f} ms with states on the host, {on_gpu:.2f}"


def page_locked(models: Path, provider: str) -> str:
    """Run batches from page-locked and from pageable memory, and ask CUDA whether the former is page-locked."""
    files = read_version(models / "digits/1")
    session = Session(files.files[CLASSIFIER_FILE], Candidate(PROVIDERS[provider], pb.PRECISION_FP32), 2)
    graph = ClassifierGraph(session, files.manifest)
    golden = parse_golden(files.files[GOLDEN], files.manifest)
    images = np.resize(golden.images, (64, *golden.images.shape[1:]))
    graph.run(images)
    memory = PageLockedMemory()
    buffer = memory.allocate(images.shape, np.uint8)
    buffer[:] = images
    expected = graph.run(images)["logits"]
    if not np.allclose(graph.run(buffer)["logits"], expected, rtol=1e-3, atol=1e-3):
        raise RuntimeError("outputs of a batch in page-locked memory differ")
    path = loaded_library("libcudart.so")
    if path is None:
        raise Skipped("no CUDA runtime is loaded, so buffers are pageable")
    # type, device, device pointer, host pointer
    attributes = ctypes.create_string_buffer(64)
    pointer = ctypes.c_void_p(buffer.ctypes.data)
    if error := ctypes.CDLL(path).cudaPointerGetAttributes(attributes, pointer):
        raise RuntimeError(f"cudaPointerGetAttributes returned error {error}")
    if (kind := int.from_bytes(attributes.raw[:4], sys.byteorder)) != _PAGE_LOCKED:
        raise RuntimeError(f"CUDA calls the buffer memory of type {kind}, not page-locked")
    pageable, page_locked = (_median_ms(partial(graph.run, each)) for each in (images, buffer))
    return f"a batch of 64 takes {pageable:.3f} ms from pageable memory, {page_locked:.3f} from page-locked memory"


def _step_ms(graphs: Captioner[Any], images: np.ndarray) -> float:
    """Return the median time of a decoder step."""
    state, features, _ = graphs.encode(images)
    tokens = np.full(len(images), graphs.manifest.captioner.start_id, np.int64)

    def step() -> None:
        nonlocal state
        state = graphs.step(tokens, state, features).state

    return _median_ms(step)


def _median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[_REPEATS // 3 :]) * 1e3
