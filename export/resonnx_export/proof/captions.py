"""Compares ONNX Runtime's captions with PyTorch's, word by word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.beams import BeamSearch
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import NEAR_TIE
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork, Encoded
from resonnx_export.pictures.synthetic import check_pictures, sample_rows
from resonnx_export.proof import reference
from resonnx_export.proof.drift import Rounding, comparable_words, permitted_drift
from resonnx_export.proof.parity import ATOL, BATCH_SIZES, RTOL
from resonnx_export.proof.predictions import CaptionerPredictions, Pictures, same_words
from resonnx_export.proof.reference import Caption, Float, StepTaken, Tokens

# Steps are compared at least so far, even if all captions end before.
_LEAST_STEPS: Final = 4


@dataclass(frozen=True)
class CaptionBatch:
    """Pictures uint8 [N,H,W,3], and PyTorch's encodings and greedy captions of them in float32.

    Attributes:
        steps: All that were taken.
        drift: How far each word's log-probability may differ because of rounding, float32 [T] a caption; 0 until
            `with_drift`.
    """

    pictures: Pixels
    encoded: Encoded
    captions: Sequence[Caption]
    steps: Sequence[StepTaken]
    drift: Sequence[Float]

    def permuted(self) -> "CaptionBatch":
        """Return the batch with its rows in another order, the same each time, and no steps."""
        order = np.random.default_rng(0).permutation(len(self.pictures))
        captions, drift = ([each[i] for i in order] for each in (self.captions, self.drift))
        return CaptionBatch(self.pictures[order], self.encoded.rows(order), captions, (), drift)

    def with_drift(self, network: CaptionNetwork, spec: pb.CaptionerSpec, rounding: Rounding) -> "CaptionBatch":
        """Return the batch with the drift that the rounding explains."""
        return replace(self, drift=permitted_drift(network, self.encoded, self.captions, spec, rounding))


def caption_batch(network: CaptionNetwork, pictures: Pixels, manifest: pb.Manifest) -> CaptionBatch:
    """Let PyTorch caption pictures uint8 [N,H,W,3]."""
    encoded = reference.encode(network, pictures, manifest.input)
    captions, steps = reference.decode(network, encoded, manifest.captioner, _LEAST_STEPS)
    return CaptionBatch(pictures, encoded, captions, steps, [np.zeros_like(caption.log_probs) for caption in captions])


def caption_batches(
    network: CaptionNetwork, manifest: pb.Manifest, samples: Sequence[Image.Image] = (), seed: int = 0
) -> list[CaptionBatch]:
    """Let PyTorch caption check pictures in batches of BATCH_SIZES; another seed takes other pictures."""
    return [
        caption_batch(network, check_pictures(manifest.input, size, seed + size, samples), manifest)
        for size in BATCH_SIZES
    ]


def prove_captions(
    name: str,
    batches: Sequence[CaptionBatch],
    open_graphs: Callable[[bool, Encoded], CaptionerGraphs],
    spec: pb.CaptionerSpec,
    *,
    rtol: float = RTOL,
) -> tuple[list[pb.ParityCheck], list[Decoded]]:
    """Compare the captions of every batch, and of the last one permuted, with ONNX Runtime's optimisations on and off.

    Args:
        name: For the report.
        batches: The last has the most rows.
        open_graphs: Called with whether to optimise, and a batch's encodings.
        spec: The decoding rule.
        rtol: As compare's.

    Returns:
        The checks, and the optimised graphs' captions of all pictures, in order.

    Raises:
        ParityFailed: As compare_captions.
    """
    checks: list[pb.ParityCheck] = []
    written: list[Decoded] = []
    titles = [f"batch {len(batch.pictures)}" for batch in batches]
    for optimise in (True, False):
        how = "optimised" if optimise else "not optimised"
        for title, batch in zip([*titles, "permuted"], [*batches, batches[-1].permuted()], strict=True):
            decoded = decode_all(open_graphs(optimise, batch.encoded), batch.pictures, spec)
            checks.append(compare_captions(f"{name}, {title}, {how}", batch.captions, decoded, batch.drift, rtol=rtol))
            written += decoded if optimise and title != "permuted" else []
    return checks, written


def compare_captions(
    name: str, expected: Sequence[Caption], decoded: Sequence[Decoded], drift: Sequence[Float], *, rtol: float = RTOL
) -> pb.ParityCheck:
    """Compare captions token by token, and the log-probabilities of equal words by `compare`'s rule or the drift.

    A caption may differ from a step on at which PyTorch's scores of both words are within NEAR_TIE or the drift; the
    check's `identical` counts the others. Words from the first one on whose drift exceeds MAX_DRIFT are not compared.

    Args:
        name: For the report.
        expected: PyTorch's captions.
        decoded: The captions to check.
        drift: How far each word's log-probability may differ because of rounding, float32 [T] a caption.
        rtol: As compare's.

    Raises:
        ParityFailed: A caption differs otherwise, or log-probabilities are too far off.
    """
    # Chosen words have log-probabilities close to 0, but the rounding error is that of the whole distribution.
    scale = max(float(np.abs(caption.step_log_probs).max()) for caption in expected)
    least = ATOL + rtol * scale
    check = pb.ParityCheck(name=name, pictures=len(expected), bound=least)
    for row, (caption, sequence, drifts) in enumerate(zip(expected, decoded, drift, strict=True)):
        tokens, ours = tokens_of(sequence).tolist(), caption.tokens.tolist()
        check.words += len(ours)
        if (comparable := comparable_words(drifts)) < len(ours):
            check.words_not_compared += len(ours) - comparable
            tokens, ours = tokens[:comparable], ours[:comparable]
        equal = first_difference(ours, tokens)
        if tokens == ours:
            check.identical += 1
        elif not is_near_tie(caption, tokens, drifts):
            raise ParityFailed(f"{name}: caption {row} is {tokens}, PyTorch's is {ours}")
        found = np.array([token.log_prob for token in sequence.tokens[:equal]])
        delta, bounds = np.abs(found - caption.log_probs[:equal]), np.maximum(drifts[:equal], least)
        check.max_abs_reference = max(check.max_abs_reference, float(np.abs(caption.log_probs).max()))
        if len(delta) and not delta.max() <= check.max_abs_difference:
            word = int(delta.argmax())
            check.max_abs_difference, check.bound, check.drift = (float(each[word]) for each in (delta, bounds, drifts))
        if len(wrong := np.flatnonzero(~(delta <= bounds))):
            word = int(wrong[0])
            raise ParityFailed(
                f"{name}: word {word + 1} of caption {row}: max|difference| {delta[word]:.3g} exceeds "
                f"{bounds[word]:.3g}, which is what the rounding of single steps explains",
                check,
            )
    return check


def caption_predictions(
    batches: Sequence[CaptionBatch], decoded: Sequence[Decoded], samples: Sequence[Image.Image]
) -> CaptionerPredictions:
    """Put PyTorch's captions of all batches and ONNX Runtime's together; `samples` as caption_batches'."""
    captions = [caption for batch in batches for caption in batch.captions]
    compared = [comparable_words(drift) for batch in batches for drift in batch.drift]
    return CaptionerPredictions(
        checked_pictures([batch.pictures for batch in batches], samples),
        [caption.tokens for caption in captions],
        [tokens_of(sequence) for sequence in decoded],
        [_word_differences(*each) for each in zip(captions, decoded, compared, strict=True)],
        compared,
    )


def checked_pictures(batches: Sequence[Pixels], samples: Sequence[Image.Image]) -> Pictures:
    """Concatenate batches of check_pictures, uint8 [N,H,W,3] each, which were made with `samples`."""
    starts = np.cumsum([0, *(len(batch) for batch in batches[:-1])]).tolist()
    typical = [start + row for start, batch in zip(starts, batches, strict=True) for row in sample_rows(len(batch))]
    return Pictures(np.concatenate(batches), "check pictures", tuple(typical) if samples else ())


def _word_differences(caption: Caption, sequence: Decoded, compared: int) -> Float:
    """Return |delta| of the log-probabilities of the first `compared` words; empty where the words differ."""
    if not same_words(caption.tokens, tokens_of(sequence), compared):
        return np.zeros(0, np.float32)
    found = np.array([token.log_prob for token in sequence.tokens[:compared]], np.float32)
    differences: Float = np.abs(found - caption.log_probs[:compared])
    return differences


def tokens_of(sequence: Decoded) -> Tokens:
    """Return the tokens of a caption, int64 [T]."""
    return np.array([token.id for token in sequence.tokens], np.int64)


def first_difference(expected: Sequence[int], tokens: Sequence[int]) -> int:
    """Return the position of the first token that differs, or the length of the shorter caption."""
    pairs = zip(expected, tokens, strict=False)
    return next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(expected), len(tokens)))


def is_near_tie(caption: Caption, tokens: Sequence[int], drift: Float) -> bool:
    """Return whether `tokens` first differ where both words score within NEAR_TIE, or within the drift [T] there."""
    step = first_difference(caption.tokens.tolist(), tokens)
    if step == min(len(caption.tokens), len(tokens)):
        return False
    log_probs = caption.step_log_probs[step]
    return bool(abs(log_probs[caption.tokens[step]] - log_probs[tokens[step]]) < max(NEAR_TIE, float(drift[step])))


def beam_captions(graphs: CaptionerGraphs, images: Pixels, spec: pb.CaptionerSpec, width: int) -> list[Decoded]:
    """Return the best caption by beam search of each picture uint8 [N,H,W,3]; `width`: beams per picture, 2 or more."""
    options = DecodeOptions(
        max_tokens=spec.max_tokens, beam_width=width, length_normalization=spec.length_normalization
    )
    state, features, first = graphs.encode(images)
    searches = [BeamSearch(spec, options) for _ in images]
    # Searches that go on, with their rows of the step.
    live: list[tuple[BeamSearch, Sequence[int]]] = [(search, [row]) for row, search in enumerate(searches)]
    choices = None if first is None else StepOutput.of_log_probs(first)
    while live:
        if choices is None:
            tokens = np.array([token for search, _ in live for token in search.tokens], np.int64)
            whole = any(search.needs_log_probs for search, _ in live)
            step = graphs.step(tokens, state, features, log_probs=whole)
            state, choices = step.state, StepOutput.of_step(step)
        sources: list[int] = []
        going: list[tuple[BeamSearch, Sequence[int]]] = []
        for search, rows in live:
            kept = search.advance(choices, rows)
            if not search.finished:
                going.append((search, range(len(sources), len(sources) + len(kept))))
                sources += [rows[i] for i in kept]
        live, choices = going, None
        state, features = [each[sources] for each in state], [each[sources] for each in features]
    return [search.ranked()[0][0] for search in searches]
