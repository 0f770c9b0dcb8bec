"""The classifiers' entry for loading: a candidate's logits must agree with the golden examples."""

from functools import partial
from typing import Final

import numpy as np

from resonnx_server.drift.drift import Drift
from resonnx_server.errors import ModelRefused
from resonnx_server.inference.registry import SessionReport
from resonnx_server.inference.tasks import CLASSIFY
from resonnx_server.repository.instances import choose_instances
from resonnx_server.repository.reopening import Source
from resonnx_server.repository.tasks import Loaded, Prepared, TaskEntry
from resonnx_server.repository.version import repeat
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.class_activation import FEATURE_MAP, SUM_RTOL, ClassActivation
from resonnx_server.runtime.graphs import IMAGE, ClassifierGraph
from resonnx_server.runtime.model_files.golden_examples import Verdict, judge_logits
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE
from resonnx_server.runtime.session import Session
from resonnx_server.runtime.tensor_view import row_bytes
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import TensorEngine


def _judge(loaded: Loaded[ClassifierGraph]) -> Verdict:
    images = loaded.golden.images
    return _judge_rows(loaded, len(images), loaded.graphs.run(images))


def _judge_rows(loaded: Loaded[ClassifierGraph], rows: int, outputs: Tensors) -> Verdict:
    """Compare outputs of `rows` golden pictures, repeated as needed, on the scale of all golden logits."""
    reference = loaded.golden.logits
    assert reference is not None
    expected = np.resize(reference, (max(rows, len(reference)), *reference.shape[1:]))
    answers = np.concatenate([outputs["logits"], expected[rows:]])
    return judge_logits(expected, answers, loaded.bound)


def _prepare(loaded: Loaded[ClassifierGraph]) -> Prepared:
    def run(session: Session, rows: int) -> Tensors:
        return session.run({IMAGE: repeat(loaded.golden, rows)})

    session = loaded.graphs.session
    warming = Warming(loaded.version, loaded.files, CLASSIFIER_FILE, run, partial(_judge_rows, loaded))
    instances = choose_instances(warming, session, Source.of(loaded.version, loaded.files, CLASSIFIER_FILE))
    report = SessionReport(CLASSIFIER_FILE, session.candidate, instances.table, instances.max_concurrent_batches)
    of_row = row_bytes(*session.inputs, *session.outputs, *session.on_request)
    drift = Drift.of(loaded.files.files, loaded.files.manifest)
    engine = partial(TensorEngine, instances, finite=True, row_bytes=of_row, drift=drift)
    return Prepared(session.inputs, session.outputs, (report,), engine, _heatmaps(loaded))


def _heatmaps(loaded: Loaded[ClassifierGraph]) -> ClassActivation | str:
    """Return what heatmaps are computed with, or why there are none. Raises ModelRefused if the graph lacks it."""
    spec, session = loaded.files.manifest.classifier, loaded.graphs.session
    if not spec.heatmaps.rows:
        return spec.heatmaps.unsupported or "it was exported before heatmaps existed; export it again"
    found = ClassActivation.of(loaded.files.files[CLASSIFIER_FILE], spec)
    (channels,) = (spec.shape[1] for spec in session.on_request if spec.name == FEATURE_MAP)
    if channels != found.weights.shape[1]:
        raise ModelRefused(f"{FEATURE_MAP} has {channels} channels, its weights {found.weights.shape[1]}")
    # Nothing else shows what a provider makes of the feature map. Two pictures: some mix up rows.
    outputs = session.run({IMAGE: repeat(loaded.golden, min(2, loaded.version.largest_batch))}, [FEATURE_MAP, "logits"])
    if found.gives(outputs[FEATURE_MAP], outputs["logits"], max(SUM_RTOL, loaded.bound)):
        return found
    return f"the means of its feature map are not its logits on {session.candidate}"


ENTRY: Final = TaskEntry(
    CLASSIFY,
    examples="logits",
    has_examples=lambda golden: golden.logits is not None,
    graphs=ClassifierGraph,
    tensors=lambda graphs: (graphs.session.inputs, graphs.session.outputs),
    run=lambda loaded, pictures: loaded.graphs.run(pictures),
    judge=_judge,
    prepare=_prepare,
)
