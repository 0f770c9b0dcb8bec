"""Loads a captioner: the fastest pair of encoder and decoder candidates that gives the golden captions."""

from functools import partial
from typing import Final

import numpy as np

from resonnx_server.engine.captioner import CaptionEngine
from resonnx_server.engine.latency import sizes_up_to
from resonnx_server.engine.model import Model, SessionReport
from resonnx_server.errors import ModelRefused
from resonnx_server.repository import choose, residency
from resonnx_server.repository.version import Start, Version, repeat
from resonnx_server.runtime.golden import Golden, Verdict, judge_captions
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.greedy import decode_all
from resonnx_server.runtime.manifest import DECODER_FILE, ENCODER_FILE, VersionFiles
from resonnx_server.runtime.session import TensorSpec

# What a captioner gives over the tensor protocol.
_OUTPUTS: Final = (
    TensorSpec("caption", np.dtype(object), ("batch",)),
    TensorSpec("log_prob", np.dtype(np.float32), ("batch",)),
)


def load(version: Version, files: VersionFiles, golden: Golden) -> Start:
    """Choose and warm. Raises ModelRefused if no pair of candidates loads or agrees."""
    spec = files.manifest.captioner
    if golden.tokens is None or golden.log_probs is None:
        raise ModelRefused("golden.npz holds no captions")
    encoders, decoders = version.open(files, ENCODER_FILE), version.open(files, DECODER_FILE)
    pairs = {
        f"{encoder.candidate} + {decoder.candidate}": CaptionerGraphs(encoder, decoder, files.manifest)
        for encoder in encoders
        for decoder in decoders
    }
    named = list(pairs.items())
    pictures = version.race_pictures(golden)
    order = choose.race([(name, partial(decode_all, graphs, pictures, spec)) for name, graphs in named])
    encoder_bounds = choose.bounds(files.manifest, ENCODER_FILE)
    decoder_bounds = choose.bounds(files.manifest, DECODER_FILE)

    def bound(graphs: CaptionerGraphs) -> float:
        return max(
            encoder_bounds[graphs.encoder.candidate.precision], decoder_bounds[graphs.decoder.candidate.precision]
        )

    def judge(graphs: CaptionerGraphs) -> Verdict:
        return judge_captions(golden, decode_all(graphs, golden.images, spec), bound(graphs))

    chosen = choose.first_agreeing([named[i] for i in order], judge)
    decoding = residency.settle(files, chosen, golden, bound(chosen))
    graphs, slots = decoding.graphs, decoding.slots
    encode_table = version.warm(
        files, graphs.encoder, ENCODER_FILE, version.batch_sizes, lambda rows: graphs.encode(repeat(golden, rows))
    )
    step_table = version.warm(
        files, graphs.decoder, DECODER_FILE, sizes_up_to(slots.capacity), lambda rows: graphs.step(*slots.inputs(rows))
    )

    def start() -> Model:
        stats = version.metrics.model(version.found.name, version.found.version)
        engine = CaptionEngine(
            graphs,
            spec,
            encode_table,
            step_table,
            slots,
            version.device_for(graphs.encoder.candidate.provider),
            stats,
            policy=version.settings.caption_policy,
            max_queue_rows=version.settings.max_queue_size,
            max_queue_delay_us=version.settings.max_queue_delay_us,
            objective=version.objective,
        )
        return Model(
            name=version.found.name,
            version=version.found.version,
            task=files.manifest.task,
            manifest=files.manifest,
            identity=files.identity,
            verified=True,
            inputs=graphs.encoder.inputs,
            outputs=_OUTPUTS,
            max_batch_size=version.settings.max_batch_size,
            max_queue_size=version.settings.max_queue_size,
            jpeg_scaling=version.settings.jpeg_scaling,
            sessions=(
                SessionReport(ENCODER_FILE, graphs.encoder.candidate, encode_table),
                SessionReport(DECODER_FILE, graphs.decoder.candidate, step_table),
            ),
            stats=stats,
            engine=engine,
        )

    return start
