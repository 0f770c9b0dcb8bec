"""Loads a classifier: the fastest candidate whose logits agree with the golden examples."""

from functools import partial

import numpy as np

from resonnx_server.errors import ModelRefused
from resonnx_server.inference.registry import Model, SessionReport
from resonnx_server.inference.tasks import CLASSIFY
from resonnx_server.repository import choose
from resonnx_server.repository.instances import choose_instances
from resonnx_server.repository.version import Start, Version, repeat
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.graphs import IMAGE, ClassifierGraph
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict, judge_logits
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, VersionFiles
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.session_pool import TensorInstanceGroup, Tensors
from resonnx_server.tensors.engine import TensorEngine


def load(version: Version, files: VersionFiles, golden: Golden) -> Start:
    """Choose and warm. Raises ModelRefused if no candidate loads, runs and agrees."""
    reference = golden.logits
    if reference is None:
        raise ModelRefused("golden.npz holds no logits")
    graphs = [ClassifierGraph(session, files.manifest) for session in version.open(files, CLASSIFIER_FILE)]
    version.progress.reach("checking")
    pictures = version.race_pictures(golden)
    allowed = choose.bounds(files.manifest, CLASSIFIER_FILE)

    def judge_rows(session: Session, rows: int, outputs: Tensors) -> Verdict:
        """Judge answers to so many golden pictures, over and over, on the scale of all that the bound is meant for."""
        expected = np.resize(reference, (max(rows, len(reference)), *reference.shape[1:]))
        answers = np.concatenate([outputs["logits"], expected[rows:]])
        return judge_logits(expected, answers, allowed[session.candidate.precision])

    def judge(graph: ClassifierGraph) -> Verdict:
        return judge_rows(graph.session, len(golden.images), graph.run(golden.images))

    def prepare(graph: ClassifierGraph) -> tuple[Session, TensorInstanceGroup]:
        def feeds(rows: int) -> Tensors:
            return {IMAGE: repeat(golden, rows)}

        warming = Warming(version, files, CLASSIFIER_FILE, feeds, partial(judge_rows, graph.session))
        return graph.session, choose_instances(warming, graph.session)

    named = [(str(graph.session.candidate), graph) for graph in graphs]
    session, runners = choose.fastest(named, lambda graph: graph.run(pictures), judge, prepare)

    report = SessionReport(CLASSIFIER_FILE, session.candidate, runners.table, runners.max_concurrent_batches)

    def start() -> Model:
        stats = version.metrics.model(version.folder.name, version.folder.version)
        engine = TensorEngine(
            runners,
            version.device_for(session.candidate.provider),
            stats,
            max_queue_rows=version.settings.max_queue_size,
            max_queue_delay_us=version.settings.max_queue_delay_us,
            objective=version.objective,
            finite=True,
        )
        return Model(
            name=version.folder.name,
            version=version.folder.version,
            task=CLASSIFY,
            manifest=files.manifest,
            identity=files.identity,
            verified=True,
            inputs=session.inputs,
            outputs=session.outputs,
            max_batch_size=version.settings.max_batch_size,
            max_queue_size=version.settings.max_queue_size,
            allow_timeout_override=version.settings.allow_timeout_override,
            pictures=version.pictures(files.manifest.input),
            sessions=(report,),
            stats=stats,
            engine=engine,
        )

    return start
