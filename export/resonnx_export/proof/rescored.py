"""The proof of a decoder that scores its best words again (rescored.py): PyTorch's words, and how far its scores lie.

Its states and attention are float32's, and so is the rule for them. Every greedy word must be PyTorch's, but for
near-ties; log-probabilities may lie as far off as int8 in blocks takes them, and not farther.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import DECODER_FILE
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array, Session

from resonnx_export.errors import ParityFailed
from resonnx_export.networks import CaptionNetwork, Encoded
from resonnx_export.pictures.recipe import check_pictures
from resonnx_export.precision.rescored import scoring_weights
from resonnx_export.proof import parity, reference
from resonnx_export.proof.beam_captions import beam_captions
from resonnx_export.proof.comparisons import compare_captions, step_cases, tokens_of
from resonnx_export.proof.parity import BATCH_SIZES, Case, check_rows, compare, compare_case, open_session
from resonnx_export.proof.reference import Caption

NAME: Final = f"{DECODER_FILE} in int8"
_LOG_PROBS: Final = "log_probs"
# Apart from the seeds of the parity check, which are its batch sizes, and of the other measurements.
_SEED: Final = 4000
# Of max|log-probability|. Random captioners of 10,000 words came to 2e-4 for the words that are taken, and to 1e-2 for
# any word: the rest is room for weights with outliers.
_WORDS_RTOL: Final = 5e-3
_ANY_WORD_RTOL: Final = 3e-2
# So much shows above these in any graph.
_DAMAGE: Final = np.float32(1.25)


@dataclass(frozen=True)
class Material:
    """Batches of pictures with what PyTorch made of each, in its float32.

    Attributes:
        pictures: uint8 [N,H,W,3] a batch; the last is the largest.
        encoded: A batch's encodings.
        captions: Its greedy captions.
    """

    pictures: Sequence[Pixels]
    encoded: Sequence[Encoded]
    captions: Sequence[Sequence[Caption]]


def fresh_material(network: CaptionNetwork, manifest: pb.Manifest, samples: Sequence[Image.Image] = ()) -> Material:
    """Let PyTorch caption check pictures that no other proof has seen, in batches of BATCH_SIZES."""
    recipe = manifest.input
    pictures = [check_pictures(recipe, size, _SEED + size, samples) for size in BATCH_SIZES]
    encoded = [reference.encode(network, each, recipe) for each in pictures]
    return Material(pictures, encoded, [reference.caption(network, each, manifest.captioner) for each in encoded])


@dataclass(frozen=True)
class RescoredProof:
    """What was compared, and the optimised graph's greedy captions of all pictures, in order."""

    checks: list[pb.ParityCheck]
    captions: list[Decoded]

    @property
    def any_word(self) -> float:
        """Return the greatest |delta| of a log-probability, of whatever word."""
        return max(check.max_abs_difference for check in self.checks if check.name.endswith(f": {_LOG_PROBS}"))


@dataclass(frozen=True)
class BeamsCompared:
    """Captions by beam search, of the decoder in float32 and of the other.

    Attributes:
        width: Beams of a picture.
        pictures: How many were asked.
        identical: How many of them are captioned alike.
        difference: Greatest |delta| of a log-probability in these.
    """

    width: int
    pictures: int
    identical: int
    difference: float


class _AfterPyTorch(CaptionerGraphs):
    """decoder.onnx behind PyTorch's encoder, which has run already: `encode` answers what it made."""

    def __init__(self, encoder: Session, decoder: Session, manifest: pb.Manifest, encoded: Encoded) -> None:
        super().__init__(encoder, decoder, manifest)
        self._encoded = encoded

    def encode(self, images: Pixels) -> tuple[list[Array], list[Array], Array | None]:
        """Answer for the pictures of `encoded`, whatever is given."""
        state, features, first = self._encoded
        return (
            [each.numpy() for each in state],
            [each.numpy() for each in features],
            None if first is None else first.numpy(),
        )


def prove_rescored(
    encoder: Session, decoder: bytes, network: CaptionNetwork, manifest: pb.Manifest, material: Material
) -> RescoredProof:
    """Prove a decoder of `rescore` behind PyTorch's encoder.

    Args:
        encoder: Of encoder.onnx; not run, the graphs must only fit each other.
        decoder: The ONNX file.
        network: What it was traced from.
        manifest: Vocabulary and rule.
        material: What it is held against.

    Raises:
        ParityFailed: A word differs and is no near-tie, a number is too far off, a row sees its neighbours, or a
            damaged copy was not refused.
        BadInput: It is no decoder of `rescore`.
    """
    cases = step_cases(network, material.encoded, manifest.captioner)
    checks: list[pb.ParityCheck] = []
    captions: list[Decoded] = []
    for optimise in (True, False):
        session = open_session(decoder, optimise=optimise)
        how = "optimised" if optimise else "not optimised"
        for case in cases:
            checks += _compare_step(f"{NAME}, {case.name}, {how}", session, case)
        if optimise:
            checks += check_rows(NAME, session, cases[-1])
        for pixels, encoded, expected in zip(material.pictures, material.encoded, material.captions, strict=True):
            decoded = decode_all(_bind(encoder, session, manifest, encoded), pixels, manifest.captioner)
            name = f"{NAME}, captions, batch {len(pixels)}, {how}"
            checks.append(compare_captions(name, expected, decoded, rtol=_WORDS_RTOL))
            captions += decoded if optimise else []
        pixels, encoded, expected = material.pictures[-1], material.encoded[-1], material.captions[-1]
        order = np.random.default_rng(0).permutation(len(pixels))
        decoded = decode_all(
            _bind(encoder, session, manifest, _taken(encoded, order)), pixels[order], manifest.captioner
        )
        permuted = [expected[i] for i in order]
        checks.append(compare_captions(f"{NAME}, captions, permuted, {how}", permuted, decoded, rtol=_WORDS_RTOL))
    for weight in scoring_weights(decoder):
        _reject_damaged(decoder, weight, cases[-1])
    return RescoredProof(checks, captions)


def compare_beams(
    encoder: Session, exact: bytes, decoder: bytes, manifest: pb.Manifest, material: Material, width: int
) -> BeamsCompared:
    """Search captions of all pictures with the decoder in float32 and with the other.

    Beams weigh sums of log-probabilities of many captions, which are not exact here: they may differ, and are counted.
    """
    sessions = open_session(exact), open_session(decoder)
    pairs: list[tuple[Decoded, Decoded]] = []
    for pixels, encoded in zip(material.pictures, material.encoded, strict=True):
        bound = (_bind(encoder, session, manifest, encoded) for session in sessions)
        expected, found = (beam_captions(graphs, pixels, manifest.captioner, width) for graphs in bound)
        pairs += zip(expected, found, strict=True)
    alike = [(ours, theirs) for ours, theirs in pairs if np.array_equal(tokens_of(ours), tokens_of(theirs))]
    differences = [
        abs(one.log_prob - other.log_prob)
        for ours, theirs in alike
        for one, other in zip(ours.tokens, theirs.tokens, strict=True)
    ]
    return BeamsCompared(width, len(pairs), len(alike), max(differences, default=0.0))


def _bind(encoder: Session, decoder: Session, manifest: pb.Manifest, encoded: Encoded) -> CaptionerGraphs:
    try:
        return _AfterPyTorch(encoder, decoder, manifest, encoded)
    except ModelRefused as error:
        raise ParityFailed(f"{NAME} breaks the contract: {error}") from None


def _compare_step(name: str, session: Session, case: Case) -> list[pb.ParityCheck]:
    found = session.run(case.feeds, list(case.expected))
    exact = {output: value for output, value in case.expected.items() if output != _LOG_PROBS}
    checks = compare_case(name, Case(case.name, case.feeds, exact), found)
    rough = compare(f"{name}: {_LOG_PROBS}", case.expected[_LOG_PROBS], found[_LOG_PROBS], rtol=_ANY_WORD_RTOL)
    return [*checks, rough]


def _reject_damaged(decoder: bytes, weight: str, case: Case) -> None:
    """Check that the rule refuses a decoder whose `weight` is scaled. Raises ParityFailed if it does not."""
    try:
        _compare_step(NAME, open_session(parity.scaled(decoder, weight, _DAMAGE)), case)
    except ParityFailed:
        return
    raise ParityFailed(f"{NAME}: the check passed a copy with damaged {weight}, so it proves nothing")


def _taken(encoded: Encoded, rows: Array) -> Encoded:
    state, features, first = encoded
    return Encoded(
        tuple(each[rows] for each in state),
        tuple(each[rows] for each in features),
        None if first is None else first[rows],
    )
