"""Checks a decoder with an int8 output layer: its words are PyTorch's, and its scores within the rounding of int8.

State and attention stay in float32, with its bound. Every greedy word must be PyTorch's, except at near-ties.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import DECODER_FILE
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array, Session

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork, Encoded
from resonnx_export.precision.rescored import scoring_weights
from resonnx_export.proof import parity
from resonnx_export.proof.captions import CaptionBatch, beam_captions, caption_batches, prove_captions, tokens_of
from resonnx_export.proof.comparisons import step_cases
from resonnx_export.proof.drift import Rounding
from resonnx_export.proof.parity import Case, check_rows, compare, compare_case, in_group, merged, open_session

NAME: Final = f"{DECODER_FILE} in int8"
_LOG_PROBS: Final = "log_probs"
# Other pictures than those of the other checks.
_SEED: Final = 4000
# Of max|log-probability|. Random captioners of 10,000 words differ by 2e-4 for the chosen words and by 1e-2 for any
# word; the rest is a margin for weights with outliers.
_WORDS_RTOL: Final = 5e-3
_ANY_WORD_RTOL: Final = 3e-2
# Exceeds these in any graph.
_DAMAGE: Final = np.float32(1.25)


class _AfterPyTorch(CaptionerGraphs):
    """decoder.onnx with PyTorch's encodings: `encode` returns them, whatever pictures it gets."""

    def __init__(self, encoder: Session, decoder: Session, manifest: pb.Manifest, encoded: Encoded) -> None:
        try:
            super().__init__(encoder, decoder, manifest)
        except ModelRefused as error:
            raise ParityFailed(f"{NAME} breaks the contract: {error}") from None
        self._encoded = encoded

    def encode(self, images: Pixels) -> tuple[list[Array], list[Array], Array | None]:
        state, features, first = self._encoded
        return (
            [each.numpy() for each in state],
            [each.numpy() for each in features],
            None if first is None else first.numpy(),
        )


def fresh_batches(
    network: CaptionNetwork, manifest: pb.Manifest, samples: Sequence[Image.Image] = ()
) -> list[CaptionBatch]:
    """Let PyTorch caption check pictures that no other check uses."""
    return caption_batches(network, manifest, samples, _SEED)


def prove_rescored(
    encoder: Session, decoder: bytes, network: CaptionNetwork, manifest: pb.Manifest, batches: Sequence[CaptionBatch]
) -> tuple[list[pb.ParityCheck], list[Decoded], list[CaptionBatch]]:
    """Check a decoder of `rescore`, traced from `network`, with PyTorch's encodings.

    The session of encoder.onnx does not run, but its outputs must fit. The last batch has the most rows.

    Returns:
        The checks, the optimised graph's greedy captions of all pictures, in order, and the batches with their drift.

    Raises:
        ParityFailed: A word differs and is no near-tie, a number is too far off, rows affect each other, or a damaged
            copy was not refused.
        BadInput: It is no decoder of `rescore`.
    """
    cases = step_cases(batches)
    sessions = {optimise: open_session(decoder, optimise=optimise) for optimise in (True, False)}
    checks: list[pb.ParityCheck] = []
    for optimise, session in sessions.items():
        how = "optimised" if optimise else "not optimised"
        for case in cases:
            checks += in_group(case, _compare_step(f"{NAME}, {case.name}, {how}", session, case))
    checks = merged([*checks, *check_rows(NAME, sessions[True], cases[-1])])
    rounding = Rounding.of(checks, NAME)
    drifted = [batch.with_drift(network, manifest.captioner, rounding) for batch in batches]
    captions, decoded = prove_captions(
        f"{NAME}, captions",
        drifted,
        lambda optimise, encoded: _AfterPyTorch(encoder, sessions[optimise], manifest, encoded),
        manifest.captioner,
        rtol=_WORDS_RTOL,
    )
    for weight in scoring_weights(decoder):
        _reject_damaged(decoder, weight, cases[-1])
    return checks + captions, decoded, drifted


def greatest_difference(checks: Sequence[pb.ParityCheck]) -> float:
    """Return the greatest |delta| of a log-probability of any word, from the checks of prove_rescored."""
    return max(check.max_abs_difference for check in checks if check.name.endswith(f": {_LOG_PROBS}"))


def compare_beams(
    encoder: Session,
    exact: bytes,
    decoder: bytes,
    manifest: pb.Manifest,
    batches: Sequence[CaptionBatch],
    width: int,
) -> tuple[int, float]:
    """Search captions of all pictures with the float32 decoder `exact` and with `decoder`, with `width` beams.

    Beam search compares sums of log-probabilities, which int8 rounds, so captions may differ.

    Returns:
        The number of identical captions, and the greatest |delta| of a log-probability in these.
    """
    sessions = open_session(exact), open_session(decoder)
    pairs: list[tuple[Decoded, Decoded]] = []
    for batch in batches:
        both = (_AfterPyTorch(encoder, session, manifest, batch.encoded) for session in sessions)
        expected, found = (beam_captions(graphs, batch.pictures, manifest.captioner, width) for graphs in both)
        pairs += zip(expected, found, strict=True)
    alike = [(ours, theirs) for ours, theirs in pairs if np.array_equal(tokens_of(ours), tokens_of(theirs))]
    differences = [
        abs(one.log_prob - other.log_prob)
        for ours, theirs in alike
        for one, other in zip(ours.tokens, theirs.tokens, strict=True)
    ]
    return len(alike), max(differences, default=0.0)


def _compare_step(name: str, session: Session, case: Case) -> list[pb.ParityCheck]:
    found = session.run(case.feeds, list(case.expected))
    exact = {output: value for output, value in case.expected.items() if output != _LOG_PROBS}
    checks = compare_case(name, Case(case.name, case.feeds, exact), found)
    rough = compare(f"{name}: {_LOG_PROBS}", case.expected[_LOG_PROBS], found[_LOG_PROBS], rtol=_ANY_WORD_RTOL)
    return [*checks, rough]


def _reject_damaged(decoder: bytes, weight: str, case: Case) -> None:
    """Check that a decoder with a scaled `weight` fails the check. Raises ParityFailed if it passes."""
    try:
        _compare_step(NAME, open_session(parity.scaled(decoder, weight, _DAMAGE)), case)
    except ParityFailed:
        return
    raise ParityFailed(f"{NAME}: the check does not detect a damaged {weight}")
