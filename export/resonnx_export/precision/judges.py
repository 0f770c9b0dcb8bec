"""Compares reduced-precision graphs with PyTorch in float32, on pictures that they were not calibrated on.

Classifiers agree where the top class is the same (with sigmoids: every yes and no), captioners where every word is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.graphs import CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.model_files.golden_examples import MAX_PICTURES, Golden, judge_captions, judge_logits

from resonnx_export.errors import ParityFailed
from resonnx_export.networks.protocol import CaptionNetwork, Encoded
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.precision.bounds import GREATEST_DEVIATION
from resonnx_export.proof import reference
from resonnx_export.proof.captions import first_difference
from resonnx_export.proof.drift import Rounding, comparable_words, permitted_drift
from resonnx_export.proof.golden_examples import LEAST_WORDS, encoded_pictures, pack_golden
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.predictions import (
    CaptionerPredictions,
    ClassifierPredictions,
    Pictures,
    Predictions,
    predictions_differ,
)

# Pictures run at once; limits memory, mostly PyTorch's activations.
_BATCH: Final = 16
# Number of captions with the largest margins that golden examples are chosen from.
_CANDIDATES: Final = 4 * MAX_PICTURES


@dataclass(frozen=True)
class Judgement:
    """A graph's predictions against PyTorch's.

    Attributes:
        difference: max|delta| of the logits, or of the captions' log-probabilities.
        scale: max|reference|.
        noise: Root mean square of the differences, relative to the reference's; more sensitive than the maximum.
        right: Numbers of correct top classes, of the graph and of PyTorch; None without labels.
    """

    predictions: Predictions
    difference: float
    scale: float
    noise: float
    right: tuple[int, int] | None = None

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return len(self.predictions.changed)

    @property
    def identical(self) -> int:
        """Number of pictures with the same prediction."""
        return int((~self.predictions.changed).sum())

    @property
    def deviation(self) -> float:
        """max|delta| / max|reference|, as the server judges it."""
        return self.difference / self.scale

    @property
    def agreement(self) -> float:
        """Share of identical predictions, in percent."""
        return 100 * self.identical / self.pictures

    @property
    def accuracy_drop(self) -> float:
        """Loss of accuracy, in points; 0 without labels."""
        found, reference_right = self.right or (0, 0)
        return 100 * (reference_right - found) / self.pictures


class Judge(Protocol):
    """Compares one ONNX file of a model with PyTorch."""

    def __call__(self, model: bytes) -> Judgement:
        """Judge an ONNX file. Raises ParityFailed if its inputs or outputs are not the manifest's."""

    def golden(self, model: bytes) -> tuple[Golden, float]:
        """Return golden examples that an ONNX file agrees with, and its deviation on them. Raises ParityFailed."""


class ClassifierJudge(Judge):
    """Judges model.onnx, traced from `network`."""

    def __init__(self, network: ClassifierNetwork, manifest: pb.Manifest, pictures: Pictures) -> None:
        self._manifest, self._pictures = manifest, pictures
        batches = (pictures.pixels[rows] for rows in _batches(len(pictures.pixels)))
        self._logits = np.concatenate([reference.classify(network, each, manifest.input).logits for each in batches])

    def __call__(self, model: bytes) -> Judgement:
        found = self._run(model)
        changed = predictions_differ(self._logits, found, self._manifest.classifier.activation)
        right = None
        if (truths := self._pictures.truths) is not None:
            graph, network = (int((each.argmax(axis=1) == truths).sum()) for each in (found, self._logits))
            right = graph, network
        predictions = ClassifierPredictions(self._pictures, self._logits, found, changed)
        return judgement(predictions, self._logits, found, 0.0, right)

    def golden(self, model: bytes) -> tuple[Golden, float]:
        logits = self._logits[:MAX_PICTURES]
        images = self._pictures.pixels[:MAX_PICTURES]
        golden = Golden(images, logits=logits, encoded=encoded_pictures(self._manifest.input))
        return golden, judge_logits(logits, self._run(model, MAX_PICTURES), 1.0).deviation

    def _run(self, model: bytes, most: int | None = None) -> reference.Float:
        """Return the logits of the first `most` pictures, [N,K]."""
        try:
            graph = ClassifierGraph(open_session(model), self._manifest)
        except ModelRefused as error:
            raise ParityFailed(f"the reduced graph breaks the contract: {error}") from None
        pixels = self._pictures.pixels[:most]
        return np.concatenate([graph.run(pixels[rows])["logits"] for rows in _batches(len(pixels))])


class CaptionerJudge(Judge):
    """Judges encoder.onnx, traced from `network`, with an unchanged decoder.onnx.

    Log-probabilities are compared at each step on PyTorch's own state, words along captions that go their own way.
    """

    def __init__(self, network: CaptionNetwork, manifest: pb.Manifest, decoder: bytes, pictures: Pictures) -> None:
        self._network, self._manifest, self._decoder, self._pictures = network, manifest, decoder, pictures
        self._captions: list[reference.Caption] = []
        # Those of each batch.
        self._steps: list[list[reference.StepInputs]] = []
        for rows in _batches(len(pictures.pixels)):
            encoded = reference.encode(network, pictures.pixels[rows], manifest.input)
            captions, steps = reference.decode(network, encoded, manifest.captioner)
            self._captions += captions
            self._steps.append([step.inputs for step in steps])

    def __call__(self, model: bytes) -> Judgement:
        graphs, spec = self._graphs(model), self._manifest.captioner
        written, followed = [], []
        tokens = [caption.tokens for caption in self._captions]
        for rows, steps in zip(_batches(len(self._captions)), self._steps, strict=True):
            state, features, first = graphs.encode(self._pictures.pixels[rows])
            encoded = Encoded(
                tuple(map(torch.from_numpy, state)),
                tuple(map(torch.from_numpy, features)),
                None if first is None else torch.from_numpy(first),
            )
            # PyTorch decodes: the decoder is checked already, and PyTorch can score given words.
            written += [caption.tokens for caption in reference.caption(self._network, encoded, spec)]
            followed.append(reference.follow_steps(self._network, encoded, tokens[rows], steps))
        found = np.concatenate(followed)
        expected = np.concatenate([caption.log_probs for caption in self._captions])
        ends = np.cumsum([len(caption.tokens) for caption in self._captions])[:-1]
        differences = np.split(np.abs(found - expected), ends)
        predictions = CaptionerPredictions(self._pictures, tokens, written, differences)
        # The least scale is judge_captions': sure words have log-probabilities close to 0.
        return judgement(predictions, expected, found, 1.0)

    def golden(self, model: bytes) -> tuple[Golden, float]:
        graphs, spec = self._graphs(model), self._manifest.captioner
        margins = [caption.margin for caption in self._captions]
        rows = sorted(range(len(margins)), key=margins.__getitem__, reverse=True)[:_CANDIDATES]
        pixels = self._pictures.pixels
        sequences, captions = decode_all(graphs, pixels[rows], spec), [self._captions[row] for row in rows]
        encoded = reference.encode(self._network, pixels[rows], self._manifest.input)
        rounding = Rounding.of(self._manifest.parity.checks)
        drift = permitted_drift(self._network, encoded, captions, spec, rounding)
        lengths = [_same_words(*each) for each in zip(captions, sequences, drift, strict=True)]
        chosen = [i for i, caption in enumerate(captions) if lengths[i] == len(caption.tokens)]
        if not chosen:
            lengths = [min(*each) for each in zip(lengths, map(_clear_words, captions, sequences), strict=True)]
            longest = sorted(range(len(rows)), key=lengths.__getitem__, reverse=True)
            chosen = [i for i in longest if lengths[i] >= LEAST_WORDS]
        if not chosen:
            raise ParityFailed(f"no caption's first {LEAST_WORDS} words are PyTorch's, so there are no golden examples")
        chosen = chosen[:MAX_PICTURES]
        golden = pack_golden(
            pixels[[rows[i] for i in chosen]],
            [captions[i].beginning(lengths[i]) for i in chosen],
            [drift[i][: lengths[i]] for i in chosen],
            self._manifest.input,
            spec,
        )
        return golden, judge_captions(golden, [sequences[i] for i in chosen], 1.0).deviation

    def _graphs(self, encoder: bytes) -> CaptionerGraphs:
        try:
            return CaptionerGraphs(open_session(encoder), open_session(self._decoder), self._manifest)
        except ModelRefused as error:
            raise ParityFailed(f"the reduced graph breaks the contract: {error}") from None


def _off(caption: reference.Caption, sequence: Decoded) -> reference.Float:
    """Return |delta| of the words' log-probabilities up to the first other word, float32."""
    same = first_difference(caption.tokens.tolist(), [token.id for token in sequence.tokens])
    found = np.array([token.log_prob for token in sequence.tokens[:same]], np.float32)
    off: reference.Float = np.abs(found - caption.log_probs[:same])
    return off


def _same_words(caption: reference.Caption, sequence: Decoded, drift: reference.Float) -> int:
    """Return the number of first words that are the same, comparable, and within a bound that a server permits."""
    off = _off(caption, sequence)
    scale = max(1.0, float(np.abs(caption.log_probs).max()))
    within = ~(off > GREATEST_DEVIATION * scale)
    return min(len(off) if within.all() else int((~within).argmax()), comparable_words(drift))


def _clear_words(caption: reference.Caption, sequence: Decoded) -> int:
    """Return the number of first words whose margins are above twice what their log-probabilities are off by."""
    off = _off(caption, sequence)
    unclear = caption.margins[: len(off)] <= 2 * off
    return int(unclear.argmax()) if unclear.any() else len(off)


def _batches(count: int) -> Iterator[slice]:
    for start in range(0, count, _BATCH):
        yield slice(start, min(start + _BATCH, count))


def judgement(
    predictions: Predictions,
    expected: reference.Float,
    found: reference.Float,
    least_scale: float,
    right: tuple[int, int] | None = None,
) -> Judgement:
    """Compare outputs with PyTorch's; `least_scale` is that of their differences where all are small."""
    scale = max(float(np.abs(expected).max()), least_scale, float(np.finfo(np.float32).tiny))
    if not np.isfinite(found).all():
        return Judgement(predictions, float("inf"), scale, float("inf"), right)
    delta = np.abs(found - expected)
    noise = float(np.sqrt(np.square(delta).mean() / max(np.square(expected).mean(), 1e-30)))
    return Judgement(predictions, float(delta.max()), scale, noise, right)
