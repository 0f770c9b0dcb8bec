"""Loads a version of any task by the task's entry: its graphs, their comparison with golden examples, its engine.

A new task is an entry in a module of its own (see classifiers.py) and a line in loader.py.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Generic, NamedTuple, TypeVar

from resonnx_server.errors import ModelRefused
from resonnx_server.inference.model import ModelEngine
from resonnx_server.inference.registry import Model, SessionReport
from resonnx_server.inference.tasks import CLASSIFY, Task
from resonnx_server.repository import choose
from resonnx_server.repository.choosing.providers import SEPARATOR, ProviderChoice
from resonnx_server.repository.model_config.declared_manifest import check_agreement
from resonnx_server.repository.version import Start, Version, repeat
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.class_activation import ClassActivation
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict
from resonnx_server.runtime.model_files.manifest import GOLDEN, VersionFiles, onnx_files
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import TensorSpec

G = TypeVar("G")
_log = logging.getLogger(__name__)

# Batch size of the race between providers.
_RACE_BATCH: Final = 8


class Prepared(NamedTuple):
    """A model that is ready to serve.

    Attributes:
        inputs: See Model.
        outputs: See Model.
        sessions: See Model; the first one's provider decides on the device.
        engine: Makes the engine of a device, the model's counters, and the limits of its queue (by keyword).
        heatmaps: See Model.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sessions: tuple[SessionReport, ...]
    engine: Callable[..., ModelEngine]
    heatmaps: ClassActivation | str = ""


class Loaded(NamedTuple, Generic[G]):
    """A version with opened graphs; `bound` is the largest deviation of their outputs."""

    version: Version
    files: VersionFiles
    golden: Golden
    graphs: G
    bound: float


@dataclass(frozen=True)
class TaskEntry(Generic[G]):
    """A task's entry for loading.

    Attributes:
        task: The task.
        examples: Name of the required golden examples, for errors: "logits".
        has_examples: Returns whether golden examples hold them.
        graphs: Makes graphs of a session for each of the task's files, in their order, and the manifest.
        tensors: Returns the inputs and the outputs that clients see.
        run: Runs graphs on pictures; the fastest candidate is chosen by it.
        judge: Compares the answers of graphs with the golden examples.
        prepare: Measures and warms up graphs; raises ModelRefused if answers at any batch size are wrong.
    """

    task: Task
    examples: str
    has_examples: Callable[[Golden], bool]
    graphs: Callable[..., G]
    tensors: Callable[[G], tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]
    run: Callable[[Loaded[G], Pixels], Any]
    judge: Callable[[Loaded[G]], Verdict]
    prepare: Callable[[Loaded[G]], Prepared]

    def load(self, version: Version, files: VersionFiles, golden: Golden) -> Start:
        """Choose and warm up the fastest candidate. Raises ModelRefused if none loads, runs and agrees.

        A candidate that was chosen before is taken without a race, if it loads, runs and agrees: of the same version by
        the cache, or, beside live traffic, of an alike graph.
        """
        graphs = tuple(files.graph_sum_of(file) for file in onnx_files(files.manifest) if file in files.files)
        known = version.known.fastest(graphs) if version.progress.takes_known else None
        if known is None:
            known = self._choice(version, files).kept()
        if known is not None:
            try:
                return self._load(version, files, golden, graphs, known)
            except ModelRefused as refused:
                Cancellation.check()
                extra = {"candidate": SEPARATOR.join(known), "reason": refused.message}
                _log.warning("the fastest provider of earlier is not taken", extra=extra)
        return self._load(version, files, golden, graphs, None)

    def _choice(self, version: Version, files: VersionFiles) -> ProviderChoice:
        names = onnx_files(files.manifest)
        provider = version.settings.provider or "auto"
        candidates = [choose.names_of_candidates(files.manifest, file, provider) for file in names]
        return ProviderChoice(version, files.identity, names, candidates)

    def _load(
        self,
        version: Version,
        files: VersionFiles,
        golden: Golden,
        graphs: tuple[str, ...],
        only: tuple[str, ...] | None,
    ) -> Start:
        options = self._options(version, files, golden, only)
        version.progress.reach("checking")
        pictures = repeat(golden, min(_RACE_BATCH, version.largest_batch))

        def prepare(one: Loaded[G]) -> tuple[Loaded[G], Prepared]:
            return one, self.prepare(one)

        choice = self._choice(version, files)
        if len(options) > 1:
            version.progress.measure_alone()
        chosen, prepared = choose.fastest(
            options, lambda one: self.run(one, pictures), self.judge, prepare, version.effort, choice.raced
        )
        name = next(name for name, option in options if option is chosen)
        found = tuple(name.split(SEPARATOR))
        choice.keep(found)
        version.known.learn_fastest(graphs, found)
        return starting(version, self.task, prepared, files)

    def agreeing(self, version: Version, files: VersionFiles, golden: Golden) -> list[str]:
        """Return the names of the candidates that agree with the golden examples. Raises ModelRefused as `load`."""
        return choose.agreeing(self._options(version, files, golden), self.judge)

    def _options(
        self, version: Version, files: VersionFiles, golden: Golden, only: tuple[str, ...] | None = None
    ) -> list[tuple[str, Loaded[G]]]:
        """Return the candidates that load, with their names; with `only`, the one that it names for each file."""
        if not self.has_examples(golden):
            raise ModelRefused(f"{GOLDEN} holds no {self.examples}")
        manifest, names = files.manifest, onnx_files(files.manifest)
        bounds = [choose.bounds(manifest, file) for file in names]
        options = []
        wanted: tuple[str | None, ...] = only or (None,) * len(names)
        for sessions in product(*(version.open(files, file, of) for file, of in zip(names, wanted, strict=True))):
            candidates = [session.candidate for session in sessions]
            bound = max(of[one.precision] for of, one in zip(bounds, candidates, strict=True))
            loaded = Loaded(version, files, golden, self.graphs(*sessions, manifest), bound)
            options.append((SEPARATOR.join(map(str, candidates)), loaded))
        declaration = version.settings.declaration
        if declaration is not None:
            check_agreement(declaration, manifest, names[0], *self.tensors(options[0][1].graphs))
        return options


def starting(
    version: Version,
    task: Task,
    prepared: Prepared,
    files: VersionFiles | None,
    max_batch_size: int | None = None,
    optional_inputs: tuple[TensorSpec, ...] = (),
    identity: str = "",
    *,
    shares_batches: bool = True,
) -> Start:
    """Return the last step of a load, which makes the engine and the model.

    Args:
        version: The version.
        task: Its task.
        prepared: Its graphs, ready to serve.
        files: Its verified files; None for a bare ONNX file.
        max_batch_size: See Model; None is the settings', at least 1.
        optional_inputs: See Model.
        identity: See Model; of a bare ONNX file.
        shares_batches: See Model.
    """
    settings = version.settings

    def start() -> Model:
        stats = version.metrics.model(version.folder.name, version.folder.version)
        if files is not None and task is CLASSIFY:
            stats.predictions = version.metrics.predictions(stats, files.manifest.classifier.labels)
        engine = prepared.engine(
            version.device_for(prepared.sessions[0].candidate.provider),
            stats,
            max_queue_rows=settings.max_queue_size,
            max_queue_delay_us=settings.max_queue_delay_us,
            objective=version.objective,
            run_timeout_s=settings.run_timeout_s,
            policies=version.policies,
        )
        return Model(
            name=version.folder.name,
            version=version.folder.version,
            task=task,
            manifest=files.manifest if files else None,
            identity=files.identity if files else identity,
            verified=files is not None,
            inputs=prepared.inputs,
            outputs=prepared.outputs,
            optional_inputs=optional_inputs,
            max_batch_size=version.largest_batch if max_batch_size is None else max_batch_size,
            max_queue_size=settings.max_queue_size,
            allow_timeout_override=settings.allow_timeout_override,
            declaration=settings.declaration,
            version_policy=settings.version_policy,
            keep_disagreements=settings.keep_disagreements,
            unload_unused_s=settings.unload_unused_s,
            max_queue_delay_us=settings.max_queue_delay_us,
            shares_batches=shares_batches,
            pictures=version.pictures(files.manifest.input) if files and files.manifest.HasField("input") else None,
            sessions=prepared.sessions,
            heatmaps=prepared.heatmaps,
            stats=stats,
            engine=engine,
        )

    return start
