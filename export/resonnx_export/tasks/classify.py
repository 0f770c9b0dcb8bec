"""The task "classify"."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.graphs import ClassifierGraph
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict, judge_logits
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE

from resonnx_export.answers.judging import judge_classes
from resonnx_export.assumptions.reading import values_in
from resonnx_export.assumptions.telling import ANSWERS
from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.errors import BadInput
from resonnx_export.layouts.classifiers import recognise_classifier
from resonnx_export.layouts.recognised import Network
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.onnx_files.recognised import LAYOUT, open_onnx
from resonnx_export.pictures.recipe import Size
from resonnx_export.precision.bounds import quantised_line
from resonnx_export.proof import reference
from resonnx_export.proof.comparisons import prove_classifier
from resonnx_export.proof.heatmaps import check_sums
from resonnx_export.proof.parity import FP32_BOUND, open_session
from resonnx_export.proof.predictions import ClassifierPredictions
from resonnx_export.proof.reference import Activation, Float
from resonnx_export.sources.source import WEIGHTS, read_source
from resonnx_export.tasks.task import Files, Task
from resonnx_export.wording import names

_SHOWN_CLASSES: Final = 3


@dataclass(frozen=True)
class ClassRow:
    """One class in both predictions: scores as text, and the difference of the logits."""

    label: str
    expected: str
    found: str
    difference: float
    expected_first: bool
    found_first: bool


def _recognise(manifest: pb.Manifest, checkpoint: Sequence[Path]) -> tuple[Network, Sequence[SourceFile]]:
    if len(checkpoint) > 1:
        raise BadInput(f"a classifier is one file or one folder; {len(checkpoint)} were given")
    if manifest.source.layout == LAYOUT:
        size, labels = Size(manifest.input.height, manifest.input.width), len(manifest.classifier.labels)
        network = open_onnx(checkpoint[0], size, labels)
        return network, network.file.files
    source = read_source(checkpoint[0], next((e.value for e in manifest.assumptions if e.name == WEIGHTS), None))
    return recognise_classifier(source.state_dict, assume=values_in(manifest)).network, source.files


def _predicts(network: ClassifierNetwork, manifest: pb.Manifest, golden: Golden) -> bool:
    expected = reference.classify(network, golden.images, manifest.input).logits
    return golden.logits is not None and judge_logits(expected, golden.logits, FP32_BOUND).passed


def _compare_quantised(
    files: Files, network: ClassifierNetwork, manifest: pb.Manifest, golden: Golden
) -> Iterator[str]:
    graph = ClassifierGraph(open_session(files[CLASSIFIER_FILE]), manifest)
    expected = reference.classify(network, golden.images, manifest.input).logits
    for bound in manifest.precisions:
        verdict = judge_logits(expected, graph.run(golden.images)["logits"], bound.max_deviation)
        yield quantised_line(bound, verdict, len(golden.images), "every clear top class the same")
    for check in check_sums(files[CLASSIFIER_FILE], manifest, golden.images):
        yield f"  {check.name}: within {check.max_abs_difference:.1e}, {check.pictures} golden pictures"


def _judge(graph: ClassifierGraph, manifest: pb.Manifest, golden: Golden, bound: float) -> Verdict:
    if golden.logits is None:
        raise ModelRefused("golden.npz holds no logits")
    return judge_logits(golden.logits, graph.run(golden.images)["logits"], bound)


def logits_summary(report: pb.ParityReport) -> str:
    """Return the result of a comparison of logits with PyTorch's in one phrase."""
    logits = [check for check in report.checks if "logits" in check.name and not check.name.startswith(ANSWERS)]
    greatest = max(check.max_abs_difference / max(check.max_abs_reference, 1e-30) for check in logits)
    return f"logits within {greatest:.1e} of max|reference|"


def _facts(manifest: pb.Manifest) -> Iterator[tuple[str, str]]:
    yield "Classes", names("classes", list(manifest.classifier.labels))


def class_rows(
    predictions: ClassifierPredictions, spec: pb.ClassifierSpec | pb.VideoClassifierSpec, row: int
) -> Mapping[str, list[ClassRow]]:
    """Return the first classes of both predictions in a row, as the variables of prediction_classify.html."""
    expected, found = predictions.expected[row], predictions.found[row]
    top = {i for logits in (expected, found) for i in np.argsort(-logits, kind="stable")[:_SHOWN_CLASSES].tolist()}
    scores_expected, scores_found = (_scores(logits, spec.activation) for logits in (expected, found))
    rows = [
        ClassRow(
            label=spec.labels[i],
            expected=scores_expected[i],
            found=scores_found[i],
            difference=float(found[i] - expected[i]),
            expected_first=i == int(expected.argmax()),
            found_first=i == int(found.argmax()),
        )
        for i in sorted(top, key=lambda i: -expected[i])
    ]
    return {"classes": rows}


def _scores(logits: Float, activation: Activation) -> list[str]:
    if activation == pb.ClassifierSpec.ACTIVATION_NONE:
        return [f"{score:.4g}" for score in logits]
    if activation == pb.ClassifierSpec.ACTIVATION_SIGMOID:
        scores = np.exp(-np.logaddexp(0, -logits))
    else:
        raised = np.exp(logits - logits.max())
        scores = raised / raised.sum()
    return [f"{100 * score:.2f} %" for score in scores]


CLASSIFY: Final = Task(
    name="classify",
    model="classifier",
    kind=pb.TASK_CLASSIFIER,
    spec=pb.ClassifierSpec,
    values="Logits",
    outputs=("logits",),
    recognise=_recognise,
    prove=prove_classifier,
    predicts=_predicts,
    compare_quantised=_compare_quantised,
    open=lambda session, manifest: ClassifierGraph(session(CLASSIFIER_FILE), manifest),
    judge=_judge,
    batch_run=lambda graph, file, manifest, pictures: lambda: graph.run(pictures),
    summary=logits_summary,
    facts=_facts,
    prediction=lambda predictions, manifest, row: class_rows(predictions, manifest.classifier, row),
    answer=lambda graph, manifest, pictures: graph.run(pictures)["logits"],
    judge_answers=lambda answers, logits, manifest, bound: judge_classes(answers, logits, least_bound=bound),
)
