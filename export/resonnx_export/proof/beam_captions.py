"""Captions by the server's beam search, all pictures in one batch, without an engine."""

from collections.abc import Sequence as Rows

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.beams import BeamSearch
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Sequence
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.pictures.images import Pixels


def beam_captions(graphs: CaptionerGraphs, images: Pixels, spec: pb.CaptionerSpec, width: int) -> list[Sequence]:
    """Return the best caption of each picture uint8 [N,H,W,3]; `width`: beams per picture, 2 or more."""
    options = DecodeOptions(
        max_tokens=spec.max_tokens, beam_width=width, length_normalization=spec.length_normalization
    )
    state, features, first = graphs.encode(images)
    searches = [BeamSearch(spec, options) for _ in images]
    # Searches that go on, with their rows of the step.
    live: list[tuple[BeamSearch, Rows[int]]] = [(search, [row]) for row, search in enumerate(searches)]
    choices = None if first is None else StepOutput.of_log_probs(first)
    while live:
        if choices is None:
            tokens = np.array([token for search, _ in live for token in search.tokens], np.int64)
            whole = any(search.needs_log_probs for search, _ in live)
            step = graphs.step(tokens, state, features, log_probs=whole)
            state, choices = step.state, StepOutput.of_step(step)
        sources: list[int] = []
        going: list[tuple[BeamSearch, Rows[int]]] = []
        for search, rows in live:
            kept = search.advance(choices, rows)
            if not search.finished:
                going.append((search, range(len(sources), len(sources) + len(kept))))
                sources += [rows[i] for i in kept]
        live, choices = going, None
        state, features = [each[sources] for each in state], [each[sources] for each in features]
    return [search.ranked()[0][0] for search in searches]
