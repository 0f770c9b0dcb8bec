"""How well a graph of reduced precision agrees with PyTorch in float32, on pictures that it was not made from.

Classifiers agree where the top class is the same (with sigmoids: what is yes and what is no), captioners where every
word is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.model_files.golden_examples import MAX_PICTURES, Golden, judge_captions, judge_logits
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.networks import CaptionNetwork, ClassifierNetwork, Encoded
from resonnx_export.precision.bounds import follow
from resonnx_export.proof import reference
from resonnx_export.proof.golden_examples import encoded_pictures, pack_golden
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.predictions import Answers, CaptionerAnswers, ClassifierAnswers, Pictures, answers_change

# Pictures run at once: what they cost in memory, PyTorch's activations most of all.
_BATCH: Final = 16
# Golden captions are chosen among so many, the clearest.
_CANDIDATES: Final = 4 * MAX_PICTURES


@dataclass(frozen=True)
class Judgement:
    """A graph's answers against the reference's.

    Attributes:
        pictures: How many were asked.
        identical: How many of them have the same answer.
        difference: max|delta| of the logits, or of the captions' log-probabilities.
        scale: What the difference is measured by, max|reference|.
        noise: The same of root mean squares, which tells more of a small change than its maximum does.
        right: How many top classes are true, of the graph and of the reference, where the truth is known.
    """

    pictures: int
    identical: int
    difference: float
    scale: float
    noise: float
    right: tuple[int, int] | None = None

    @property
    def deviation(self) -> float:
        """Return max|delta| / max|reference|, as the server judges it."""
        return self.difference / self.scale

    @property
    def agreement(self) -> float:
        """Return the share of identical answers, in percent."""
        return 100 * self.identical / self.pictures

    @property
    def accuracy_drop(self) -> float:
        """Return how much of the accuracy is lost, in points; 0 where the truth is not known."""
        found, reference_right = self.right or (0, 0)
        return 100 * (reference_right - found) / self.pictures


class Judge(Protocol):
    """Judges one file of a model, whatever its task."""

    def __call__(self, model: bytes) -> Judgement:
        """Judge an ONNX file. Raises ParityFailed if it breaks the contract."""

    def answers(self, model: bytes) -> Answers:
        """Return what an ONNX file was judged by; of the last that was judged they are at hand."""

    def golden(self, model: bytes) -> tuple[Golden, float]:
        """Return golden examples that an ONNX file agrees with, and its deviation on them.

        Raises:
            ParityFailed: There are none.
        """


class ClassifierJudge:
    """Judges model.onnx.

    Args:
        network: What it was traced from.
        manifest: Input and labels.
        pictures: N of them.
        truths: Their classes, int64 [N], where they are known.
    """

    def __init__(
        self,
        network: ClassifierNetwork,
        manifest: pb.Manifest,
        pictures: Pictures,
        truths: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._manifest, self._pictures, self._truths = manifest, pictures, truths
        batches = [reference.classify(network, batch, manifest.input) for batch in _batches(pictures.pixels)]
        self._logits = np.concatenate([answers.logits for answers in batches])
        self._last: tuple[bytes, ClassifierAnswers] | None = None

    def __call__(self, model: bytes) -> Judgement:
        """See Judge."""
        answers = self.answers(model)
        right = None
        if self._truths is not None:
            found, expected = (logits.argmax(axis=1) == self._truths for logits in (answers.found, answers.expected))
            right = int(found.sum()), int(expected.sum())
        return _judgement(answers.expected, answers.found, 0.0, answers, right)

    def answers(self, model: bytes) -> ClassifierAnswers:
        """See Judge."""
        if self._last is None or self._last[0] is not model:
            found = self._run(model, self._pictures.pixels)
            changed = answers_change(self._logits, found, self._manifest.classifier.activation)
            self._last = model, ClassifierAnswers(self._pictures, self._logits, found, changed)
        return self._last[1]

    def golden(self, model: bytes) -> tuple[Golden, float]:
        """See Judge."""
        images, logits = self._pictures.pixels[:MAX_PICTURES], self._logits[:MAX_PICTURES]
        golden = Golden(images, logits=logits, encoded=encoded_pictures(self._manifest.input))
        return golden, judge_logits(logits, self._run(model, images), 1.0).deviation

    def _run(self, model: bytes, pictures: Pixels) -> reference.Float:
        try:
            graph = ClassifierGraph(open_session(model), self._manifest)
        except ModelRefused as error:
            raise ParityFailed(f"the reduced graph breaks the contract: {error}") from None
        return np.concatenate([graph.run(batch)["logits"] for batch in _batches(pictures)])


class CaptionerJudge:
    """Judges encoder.onnx, beside a decoder that stays as it is.

    Args:
        network: What both were traced from.
        manifest: Input and vocabulary.
        decoder: decoder.onnx.
        pictures: N of them.
    """

    def __init__(self, network: CaptionNetwork, manifest: pb.Manifest, decoder: bytes, pictures: Pictures) -> None:
        self._network, self._manifest, self._decoder, self._pictures = network, manifest, decoder, pictures
        self._last: tuple[bytes, CaptionerAnswers, reference.Float] | None = None
        self._captions = [
            caption
            for batch in _batches(pictures.pixels)
            for caption in reference.caption(
                network, reference.encode(network, batch, manifest.input), manifest.captioner
            )
        ]

    def __call__(self, model: bytes) -> Judgement:
        """See Judge."""
        answers, found = self._judged(model)
        expected = np.concatenate([caption.log_probs for caption in self._captions])
        # As judge_captions: sure words have log-probabilities next to 0.
        return _judgement(expected, found, 1.0, answers)

    def answers(self, model: bytes) -> CaptionerAnswers:
        """See Judge."""
        return self._judged(model)[0]

    def _judged(self, model: bytes) -> tuple[CaptionerAnswers, reference.Float]:
        """Return the answers, and the log-probabilities of PyTorch's words: [sum of T].

        PyTorch decodes: the decoder is proved already, and it can be told which words to score.
        """
        if self._last is not None and self._last[0] is model:
            return self._last[1:]
        graphs, spec = self._graphs(model), self._manifest.captioner
        written, followed = [], []
        for batch, captions in zip(_batches(self._pictures.pixels), self._batched_captions(), strict=True):
            state, features, first = graphs.encode(batch)
            encoded = Encoded(
                tuple(map(torch.from_numpy, state)),
                tuple(map(torch.from_numpy, features)),
                None if first is None else torch.from_numpy(first),
            )
            written += [caption.tokens for caption in reference.caption(self._network, encoded, spec)]
            followed.append(follow(self._network, encoded, captions, spec))
        found = np.concatenate(followed)
        expected = [caption.log_probs for caption in self._captions]
        ends = np.cumsum([len(log_probs) for log_probs in expected])[:-1]
        differences = np.split(np.abs(found - np.concatenate(expected)), ends)
        tokens = [caption.tokens for caption in self._captions]
        self._last = model, CaptionerAnswers(self._pictures, tokens, written, differences), found
        return self._last[1:]

    def golden(self, model: bytes) -> tuple[Golden, float]:
        """See Judge. The pictures whose words are clearest, of those that are captioned alike."""
        graphs, spec = self._graphs(model), self._manifest.captioner
        margins = [caption.margin for caption in self._captions]
        rows = sorted(range(len(margins)), key=margins.__getitem__, reverse=True)[:_CANDIDATES]
        pixels = self._pictures.pixels
        sequences = dict(zip(rows, decode_all(graphs, pixels[rows], spec), strict=True))
        same = [
            row for row in rows if [token.id for token in sequences[row].tokens] == self._captions[row].tokens.tolist()
        ][:MAX_PICTURES]
        if not same:
            raise ParityFailed("no picture is captioned as PyTorch captions it, so there are no golden examples")
        golden = pack_golden(pixels[same], [self._captions[row] for row in same], self._manifest.input, spec)
        return golden, judge_captions(golden, [sequences[row] for row in same], 1.0).deviation

    def _graphs(self, encoder: bytes) -> CaptionerGraphs:
        try:
            return CaptionerGraphs(open_session(encoder), open_session(self._decoder), self._manifest)
        except ModelRefused as error:
            raise ParityFailed(f"the reduced graph breaks the contract: {error}") from None

    def _batched_captions(self) -> Iterator[list[reference.Caption]]:
        for start in range(0, len(self._captions), _BATCH):
            yield self._captions[start : start + _BATCH]


def _batches(pictures: Pixels) -> Iterator[Pixels]:
    for start in range(0, len(pictures), _BATCH):
        yield pictures[start : start + _BATCH]


def _judgement(
    expected: reference.Float,
    found: reference.Float,
    least_scale: float,
    answers: Answers,
    right: tuple[int, int] | None = None,
) -> Judgement:
    pictures, identical = len(answers.changed), int((~answers.changed).sum())
    scale = max(float(np.abs(expected).max()), least_scale, float(np.finfo(np.float32).tiny))
    if not np.isfinite(found).all():
        return Judgement(pictures, identical, float("inf"), scale, float("inf"), right)
    delta = np.abs(found - expected)
    noise = float(np.sqrt(np.square(delta).mean() / max(np.square(expected).mean(), 1e-30)))
    return Judgement(pictures, identical, float(delta.max()), scale, noise, right)
