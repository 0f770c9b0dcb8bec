"""Replaces a captioner's decoder by one that scores its best words again, and writes into the manifest what that costs.

As stored.py does an encoder: the decoder in float32 is proved before. What no proof can give, it tells: beams and
samples weigh log-probabilities of many words, and these are not all exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import Golden, judge_captions
from resonnx_server.runtime.model_files.manifest import DECODER_FILE

from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.networks import CaptionNetwork
from resonnx_export.precision.bounds import stored_bound
from resonnx_export.precision.rescored import RESCORED
from resonnx_export.progress import Progress
from resonnx_export.proof.comparisons import asked_pictures, tokens_of, word_differences
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.predictions import CaptionerAnswers
from resonnx_export.proof.rescored import BeamsCompared, RescoredProof, compare_beams, fresh_material, prove_rescored
from resonnx_export.proof.speed import step_medians
from resonnx_export.wording import milliseconds, scientific

# How often store_decoder tells.
STAGES: Final = 4
# Beams compared where the captioner's own rule is greedy.
_BEAMS: Final = 5


@dataclass(frozen=True)
class StoredDecoder:
    """What goes with the decoder: what it was judged by, what differences may be, and notes for who exports."""

    answers: CaptionerAnswers
    bound: float
    notes: tuple[str, ...]


def check_vocabulary(spec: pb.CaptionerSpec) -> None:
    """Raise BadInput where all words would be scored twice."""
    if len(spec.vocabulary) <= RESCORED:
        raise BadInput(
            f"int8-rescored is for vocabularies of more than {RESCORED} words, which is how many it scores again; this "
            f"one has {len(spec.vocabulary)}"
        )


def store_decoder(
    files: tuple[bytes, bytes],
    rescored: bytes,
    network: CaptionNetwork,
    manifest: pb.Manifest,
    samples: Sequence[Image.Image],
    golden: Golden | None,
    tell: Progress,
) -> StoredDecoder:
    """Prove a decoder of `rescore`, and measure it.

    Args:
        files: encoder.onnx and decoder.onnx in float32, proved.
        rescored: decoder.onnx as it is to be.
        network: What they were traced from.
        manifest: Gets the file's precision, its bound, the checks, and what was measured.
        samples: Pictures that the model is meant for.
        golden: Examples that the encoder in float32 and this decoder must agree with, if that is what is served.
        tell: Hears what is being done.

    Raises:
        ParityFailed: A word differs from PyTorch's and is no near-tie, or a number is too far off.
    """
    spec = manifest.captioner
    tell("PyTorch's captions for the decoder in int8")
    material = fresh_material(network, manifest, samples)
    tell("ONNX Runtime's captions of the decoder in int8")
    encoder = open_session(files[0])
    proof = prove_rescored(encoder, rescored, network, manifest, material)
    width = spec.beam_width if spec.beam_width > 1 else _BEAMS
    tell(f"beams of {width}")
    beams = compare_beams(encoder, files[1], rescored, manifest, material, width)
    captions = [caption for batch in material.captions for caption in batch]
    answers = CaptionerAnswers(
        asked_pictures(material.pictures, samples),
        [caption.tokens for caption in captions],
        [tokens_of(sequence) for sequence in proof.captions],
        [word_differences(caption, sequence) for caption, sequence in zip(captions, proof.captions, strict=True)],
    )
    difference = max((float(each.max()) for each in answers.differences if len(each)), default=0.0)
    # As judge_captions: sure words have log-probabilities next to 0.
    scale = max(1.0, max(float(np.abs(caption.log_probs).max()) for caption in captions))
    deviation = max(difference, beams.difference) / scale
    graphs = [CaptionerGraphs(encoder, open_session(decoder), manifest) for decoder in (files[1], rescored)]
    if golden is not None:
        deviation = max(deviation, _golden_deviation(graphs[1], golden, spec))
    bound = stored_bound(DECODER_FILE, pb.PRECISION_INT8, deviation)
    others = [other for other in manifest.precisions if other.file != DECODER_FILE]
    del manifest.precisions[:]
    manifest.precisions.extend([*others, bound])
    manifest.stored[DECODER_FILE] = pb.PRECISION_INT8
    manifest.parity.checks.extend(proof.checks)
    agreement = pb.Agreement(
        file=DECODER_FILE,
        precision=pb.PRECISION_INT8,
        asked=answers.pictures.kind,
        pictures=len(captions),
        identical=int((~answers.changed).sum()),
        max_abs_difference=difference,
        max_abs_reference=scale,
        bound=bound.max_deviation * scale,
    )
    searched = pb.Agreement()
    searched.CopyFrom(agreement)
    searched.asked = f"{agreement.asked}, a beam of {width}"
    searched.identical, searched.max_abs_difference = beams.identical, beams.difference
    manifest.parity.agreements.extend([agreement, searched])
    tell("measuring the decoder's steps")
    speeds = [step_medians(each, manifest, material.pictures[-1]) for each in graphs]
    notes = _notes(agreement, beams, proof, (len(files[1]), len(rescored)), (speeds[0], speeds[1]))
    return StoredDecoder(answers, agreement.bound, notes)


def _golden_deviation(graphs: CaptionerGraphs, golden: Golden, spec: pb.CaptionerSpec) -> float:
    verdict = judge_captions(golden, decode_all(graphs, golden.images, spec), 1.0)
    if not verdict.passed:
        raise ParityFailed(f"{DECODER_FILE} in int8 on the golden examples: {verdict.detail}")
    return verdict.deviation


def _notes(
    agreement: pb.Agreement,
    beams: BeamsCompared,
    proof: RescoredProof,
    sizes: tuple[int, int],
    speeds: tuple[dict[int, float], dict[int, float]],
) -> tuple[str, ...]:
    ties = agreement.pictures - agreement.identical
    told = f", {ties} differ at a near-tie" if ties else ""
    before, after = sizes
    times = ", ".join(
        f"{rows} row{'s' if rows > 1 else ''} in {milliseconds(speeds[1][rows])} (fp32 {milliseconds(speeds[0][rows])})"
        for rows in speeds[0]
    )
    return (
        f"{DECODER_FILE}: output layer in int8, its {RESCORED} best words scored again from fp32 weights, which stay: "
        f"{100 * (after - before) / before:.0f} % larger than in fp32",
        f"{DECODER_FILE} in int8: {agreement.identical} of {agreement.pictures} {agreement.asked} captioned as in "
        f"fp32{told}; with a beam of {beams.width}, {beams.identical} of {beams.pictures}",
        f"{DECODER_FILE} in int8: log-probabilities of words taken differ by at most "
        f"{scientific(agreement.max_abs_difference)}, of any word by {scientific(proof.any_word)}, which beams and "
        "sampling see",
        f"{DECODER_FILE} in int8, a step here: {times}",
    )
