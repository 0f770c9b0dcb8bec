"""The captioners' entry for loading: the pair of encoder and decoder must give the golden captions."""

from functools import partial
from typing import Any, Final

import numpy as np

from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.slots import Slots, host_slots
from resonnx_server.inference.registry import SessionReport
from resonnx_server.inference.tasks import CAPTION
from resonnx_server.repository import instances, state_placement
from resonnx_server.repository.decoder_check import DecoderCheck
from resonnx_server.repository.state_placement import Decoding
from resonnx_server.repository.tasks import Loaded, Prepared, TaskEntry
from resonnx_server.repository.version import Version, repeat
from resonnx_server.repository.warming import VerifiedRun, Warming
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.sequence import Sequence
from resonnx_server.runtime.graphs import IMAGE, Captioner, CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict, judge_captions
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE, VersionFiles
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array, Session, TensorSpec
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import AnyInstanceGroup, AnySessionPool, InstanceGroup, SessionPool, Tensors

# Concurrent batches may be a little slower: steps then need not wait for the encoder.
_LEAST_GAIN: Final = 0.9
# A captioner's outputs in the tensor protocol: the requested number of captions of each picture, by default one.
_OUTPUTS: Final = (
    TensorSpec("caption", np.dtype(object), ("batch",)),
    TensorSpec("log_prob", np.dtype(np.float32), ("batch",)),
)


def _run(loaded: Loaded[CaptionerGraphs], pictures: Pixels) -> list[Sequence]:
    return decode_all(loaded.graphs, pictures, loaded.files.manifest.captioner)


def _judge(loaded: Loaded[CaptionerGraphs]) -> Verdict:
    return judge_captions(loaded.golden, _run(loaded, loaded.golden.images), loaded.bound)


def _prepare(loaded: Loaded[CaptionerGraphs]) -> Prepared:
    version, files, golden, graphs, bound = loaded
    decoding = state_placement.place_state(files, graphs, golden, bound)
    encoders, decoders = _runners(version, files, golden, graphs, decoding, bound)
    reports = (
        SessionReport(ENCODER_FILE, graphs.encoder.candidate, encoders.table, encoders.max_concurrent_batches),
        SessionReport(DECODER_FILE, graphs.decoder.candidate, decoders.table),
    )
    engine = partial(CaptionEngine, files.manifest.captioner, encoders, decoders, decoding.slots)
    return Prepared(graphs.encoder.inputs, _OUTPUTS, reports, engine)


ENTRY: Final = TaskEntry(
    CAPTION,
    examples="captions",
    has_examples=lambda golden: golden.tokens is not None and golden.log_probs is not None,
    graphs=CaptionerGraphs,
    run=_run,
    judge=_judge,
    prepare=_prepare,
)


def _runners(
    version: Version,
    files: VersionFiles,
    golden: Golden,
    chosen: CaptionerGraphs,
    decoding: Decoding,
    bound: float,
) -> tuple[AnyInstanceGroup, AnyInstanceGroup]:
    """Choose and warm up the sessions of encoder and decoder, concurrent ones if that is as fast.

    Args:
        version: The version being loaded.
        files: Its files.
        golden: Expected captions, which every session must give at every batch size.
        chosen: Graphs on the chosen candidates, with all threads.
        decoding: The same graphs, or those with states on the device.
        bound: Largest deviation of log-probabilities.

    Raises:
        ModelRefused: A session's outputs are wrong.
    """
    slots = decoding.slots

    def for_trial(*encoded: list[Any]) -> Slots[Any, Any]:
        # In host memory, separate slots: those that serve allocate memory at their first use, and few are ever full.
        return host_slots(slots.capacity, *encoded) if decoding.graphs is chosen else slots

    def warmed(graphs: Captioner[Any], callers: int = 1, share: int = 0) -> tuple[AnySessionPool, AnySessionPool]:
        """Return warmed sessions of encoder and decoder; `share`: threads of each concurrent job, 0 for no others."""
        first = DecoderCheck(graphs, for_trial, golden, bound)

        def encode(rows: int) -> tuple[list[Any], list[Any], Array | None]:
            return graphs.encode(repeat(golden, rows))

        encoding = version.warm(
            files,
            graphs.encoder,
            ENCODER_FILE,
            version.batch_sizes,
            VerifiedRun(encode, lambda rows: first.of_encoding(rows, encode(rows)), ENCODER_FILE, graphs.encoder),
            callers,
        )
        # There is one set of slots, so steps never run concurrently.
        step = version.warm(
            files,
            graphs.decoder,
            DECODER_FILE,
            sizes_up_to(slots.capacity),
            VerifiedRun(lambda rows: graphs.step(*slots.inputs(rows)), first.of_slots, DECODER_FILE, graphs.decoder),
        )
        return (
            SessionPool(graphs.encode, encoding, graphs.encoder.threads > share),
            SessionPool(graphs.step, step, graphs.decoder.threads > share),
        )

    # Captions that stay on a GPU have short steps: encoding and steps take turns.
    if decoding.graphs is chosen:
        first = DecoderCheck(chosen, for_trial, golden, bound)

        def judge(rows: int, outputs: Tensors) -> Verdict:
            state, features = ([outputs[name] for name in n] for n in (chosen.state_names, chosen.feature_names))
            return first.of_encoding(rows, (state, features, outputs.get("first_log_probs")))

        warming = Warming(version, files, ENCODER_FILE, lambda rows: {IMAGE: repeat(golden, rows)}, judge)
        encoders = instances.choose(warming, chosen.encoder, _LEAST_GAIN)
        if encoders.max_concurrent_batches > 1:
            share = encoders.throughput_session.threads
            decoder = chosen.decoder
            if decoder.threads > share:
                decoder = Session(files.files[DECODER_FILE], decoder.candidate, share)
            at_once = encoders.max_concurrent_batches
            alone = warmed(CaptionerGraphs(encoders.latency_session, chosen.decoder, files.manifest), 1, share)
            beside = warmed(CaptionerGraphs(encoders.throughput_session, decoder, files.manifest), at_once, share)
            return InstanceGroup(alone[0], beside[0], at_once), InstanceGroup(alone[1], beside[1])
    encode, step = warmed(decoding.graphs)
    return InstanceGroup.single(encode), InstanceGroup.single(step)
