"""Replaces a captioner's decoder by one with an int8 output layer, and records the cost in the manifest.

The float32 decoder has been checked before. Greedy words stay PyTorch's; beams and samples depend on log-probabilities
that int8 rounds, so their differences are measured and reported.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import Golden, judge_captions
from resonnx_server.runtime.model_files.manifest import DECODER_FILE

from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.precision.bounds import agreement_of, quantised_bound, record
from resonnx_export.precision.decoder_proof import compare_beams, fresh_batches, greatest_difference, prove_rescored
from resonnx_export.precision.rescored import RESCORED
from resonnx_export.progress import Progress
from resonnx_export.proof.captions import caption_predictions
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.predictions import Comparison
from resonnx_export.proof.timing import step_medians
from resonnx_export.wording import milliseconds, scientific

# How many stages quantise_decoder has.
STAGES: Final = 4
# Beams to compare if the captioner's own rule is greedy.
_BEAMS: Final = 5


def check_vocabulary(spec: pb.CaptionerSpec) -> None:
    """Raise BadInput if the vocabulary is so small that all words would be rescored."""
    if len(spec.vocabulary) <= RESCORED:
        raise BadInput(
            f"int8-rescored is for vocabularies of more than {RESCORED} words, which is how many it scores again; this "
            f"one has {len(spec.vocabulary)}"
        )


def quantise_decoder(
    files: tuple[bytes, bytes],
    rescored: bytes,
    network: CaptionNetwork,
    manifest: pb.Manifest,
    samples: Sequence[Image.Image],
    golden: Golden | None,
    progress: Progress,
) -> tuple[Comparison, tuple[str, ...]]:
    """Check and measure a decoder of `rescore`, and write precision, bound and checks into the manifest.

    Args:
        files: encoder.onnx and decoder.onnx in float32, checked.
        rescored: decoder.onnx with the int8 output layer.
        network: The network that they were traced from.
        manifest: Is changed.
        samples: Typical pictures.
        golden: Examples that the float32 encoder with this decoder must agree with, if these are served together.
        progress: Called as each stage begins.

    Returns:
        The comparison with PyTorch, and lines for the user.

    Raises:
        ParityFailed: A word differs from PyTorch's and is no near-tie, or a number is too far off.
    """
    spec = manifest.captioner
    progress("PyTorch's captions for the decoder in int8")
    batches = fresh_batches(network, manifest, samples)
    progress("ONNX Runtime's captions of the decoder in int8")
    encoder = open_session(files[0])
    checks, decoded, batches = prove_rescored(encoder, rescored, network, manifest, batches)
    width = spec.beam_width if spec.beam_width > 1 else _BEAMS
    progress(f"beams of {width}")
    alike, beam_difference = compare_beams(encoder, files[1], rescored, manifest, batches, width)
    predictions = caption_predictions(batches, decoded, samples)
    difference = max((float(each.max()) for each in predictions.differences if len(each)), default=0.0)
    # The least scale is judge_captions': sure words have log-probabilities close to 0.
    scale = max(1.0, *(float(np.abs(caption.log_probs).max()) for batch in batches for caption in batch.captions))
    deviation = max(difference, beam_difference) / scale
    graphs = [CaptionerGraphs(encoder, open_session(decoder), manifest) for decoder in (files[1], rescored)]
    if golden is not None:
        verdict = judge_captions(golden, decode_all(graphs[1], golden.images, spec), 1.0)
        if not verdict.passed:
            raise ParityFailed(f"{DECODER_FILE} in int8 on the golden examples: {verdict.detail}")
        deviation = max(deviation, verdict.deviation)
    bound = quantised_bound(DECODER_FILE, pb.PRECISION_INT8, deviation)
    greedy = agreement_of(bound, predictions, difference, scale)
    searched = pb.Agreement()
    searched.CopyFrom(greedy)
    searched.asked = f"{greedy.asked}, a beam of {width}"
    searched.identical, searched.max_abs_difference = alike, beam_difference
    record(manifest, bound, greedy, searched)
    manifest.parity.checks.extend(checks)
    progress("measuring the decoder's steps")
    before, after = (step_medians(each, spec, batches[-1].pictures) for each in graphs)
    times = ", ".join(
        f"{rows} row{'s' if rows > 1 else ''} in {milliseconds(after[rows])} (fp32 {milliseconds(before[rows])})"
        for rows in before
    )
    growth, ties = len(rescored) / len(files[1]) - 1, greedy.pictures - greedy.identical
    differ = f", {ties} differ at a near-tie" if ties else ""
    notes = (
        f"{DECODER_FILE}: output layer in int8, its {RESCORED} best words scored again from fp32 weights, which stay: "
        f"{100 * growth:.0f} % larger than in fp32",
        f"{DECODER_FILE} in int8: {greedy.identical} of {greedy.pictures} {greedy.asked} captioned as in "
        f"fp32{differ}; with a beam of {width}, {alike} of {greedy.pictures}",
        f"{DECODER_FILE} in int8: log-probabilities of chosen words differ by at most "
        f"{scientific(greedy.max_abs_difference)}, of any word by "
        f"{scientific(greatest_difference(checks))}, which affects beams and sampling",
        f"{DECODER_FILE} in int8, a step here: {times}",
    )
    return Comparison(predictions, greedy.bound), notes
