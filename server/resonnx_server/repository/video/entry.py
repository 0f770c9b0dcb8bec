"""The video classifiers' entry for loading: the logits of clips must agree with the golden examples."""

from functools import partial
from typing import Any, Final

from resonnx_server.inference.model import SessionReport
from resonnx_server.inference.tasks import VIDEO
from resonnx_server.repository.instances import choose_instances, tensor_pool
from resonnx_server.repository.reopening import Source
from resonnx_server.repository.tasks import Loaded, Prepared, TaskEntry
from resonnx_server.repository.video.golden_clips import GoldenClips
from resonnx_server.repository.warming import Warming
from resonnx_server.runtime.model_files.golden_examples import Verdict
from resonnx_server.runtime.model_files.manifest import ENCODER_FILE, onnx_files
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import GPU_PROVIDERS, Session, TensorSpec
from resonnx_server.runtime.tensor_view import row_bytes
from resonnx_server.runtime.video.graphs import LOGITS, VideoGraphs
from resonnx_server.runtime.video.spec import SEQUENCE_FILE, STEP_FILE
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.session_pool import InstanceGroup, TensorInstanceGroup, Tensors
from resonnx_server.video.clips import MOST_FRAMES
from resonnx_server.video.engine import VideoEngine, VideoSessions

# Clips of the race between providers.
_RACED: Final = 8


def _graphs(*given: Any) -> VideoGraphs:
    *sessions, manifest = given
    return VideoGraphs(dict(zip(onnx_files(manifest), sessions, strict=True)), manifest)


def _golden(loaded: Loaded[VideoGraphs]) -> GoldenClips:
    return GoldenClips(loaded.graphs, loaded.golden, loaded.bound)


def _run(loaded: Loaded[VideoGraphs], pictures: Pixels) -> object:
    return loaded.graphs.run(loaded.golden.clips[:_RACED])


def _judge(loaded: Loaded[VideoGraphs]) -> Verdict:
    return _golden(loaded).judge()


def _tensors(graphs: VideoGraphs) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return a model's inputs and outputs in the tensor protocol: clips of frames or of features, and their classes."""
    given = graphs.sequence.inputs[0] if graphs.encoder is None else graphs.encoder.inputs[0]
    row = given.shape[2:] if graphs.encoder is None else given.shape[1:]
    logits = next(spec for spec in graphs.sequence.outputs if spec.name == LOGITS)
    outputs = (TensorSpec("probabilities", logits.dtype, logits.shape), logits)
    return (TensorSpec(given.name, given.dtype, ("batch", "frames", *row)),), outputs


def _prepare(loaded: Loaded[VideoGraphs]) -> Prepared:
    graphs, version, spec = loaded.graphs, loaded.version, loaded.files.manifest.video_classifier
    clips, stages = _golden(loaded), _Stages(loaded)
    frames = steps = None
    if graphs.encoder is not None:
        warming = stages.warming(ENCODER_FILE, clips.frames, clips.of_frames)
        frames = choose_instances(warming, graphs.encoder, stages.source(ENCODER_FILE))
        stages.count = frames.max_concurrent_batches
    sizes = sizes_up_to(max(1, min(version.largest_batch, MOST_FRAMES // clips.longest)))
    classifying = stages.warming(SEQUENCE_FILE, clips.clips, clips.of_clips)
    sequences = stages.beside(classifying, graphs.sequence, sizes)
    if graphs.stepper is not None:
        stepping = Warming(
            version,
            loaded.files,
            STEP_FILE,
            lambda session, rows: session.run(clips.steps(rows)),
            lambda rows, outputs: clips.of_steps(graphs.stepper, rows, outputs),  # type: ignore[arg-type]  # it is there
        )
        steps = stages.beside(stepping, graphs.stepper, version.batch_sizes)
    reports = [
        SessionReport(file, session.candidate, group.table, group.max_concurrent_batches)
        for file, session, group in (
            (ENCODER_FILE, graphs.encoder, frames),
            (SEQUENCE_FILE, graphs.sequence, sequences),
            (STEP_FILE, graphs.stepper, steps),
        )
        if session is not None and group is not None
    ]
    sessions = VideoSessions(
        frames,
        sequences,
        steps,
        table_frames=clips.longest,
        feature_size=spec.feature_size,
        max_frames=min(spec.max_frames, version.settings.max_frames or spec.max_frames),
        frame_bytes=0 if graphs.encoder is None else row_bytes(*graphs.encoder.inputs, *graphs.encoder.outputs),
        step_bytes=0 if graphs.stepper is None else row_bytes(*graphs.stepper.inputs, *graphs.stepper.outputs),
    )
    return Prepared(*_tensors(graphs), tuple(reports), partial(VideoEngine, sessions))


class _Stages:
    """Warms up the sessions of a version's graphs, of which several run beside each other.

    Attributes:
        count: Batches that run at once.
    """

    def __init__(self, loaded: Loaded[VideoGraphs]) -> None:
        self._version, self._files = loaded.version, loaded.files
        self.count = 1

    def source(self, file: str) -> Source:
        """Return where a file is read from."""
        return Source.of(self._version, self._files, file)

    def warming(self, file: str, given: Any, judge: Any) -> Warming[Tensors]:
        """Return the warming of a file whose batches are `given(rows)`, and are compared by `judge(rows, outputs)`."""
        return Warming(self._version, self._files, file, lambda session, rows: session.run(given(rows)), judge)

    def beside(self, warming: Warming[Tensors], session: Session, sizes: tuple[int, ...]) -> TensorInstanceGroup:
        """Return the session of a graph whose batches take a small part of the time, on a share of the cores."""
        threads = max(1, self._version.threads // self.count)
        if session.threads > threads and session.candidate.provider not in GPU_PROVIDERS:
            session = session.opened_again(self._files.files[warming.file], threads)
        table = warming.costs(session, sizes, self.count)
        pool = tensor_pool(session, table, self.source(warming.file), has_all_cores=session.threads > threads)
        return InstanceGroup(pool, pool, self.count)


ENTRY: Final = TaskEntry(
    VIDEO,
    examples="clips",
    has_examples=lambda golden: golden.lengths is not None and golden.logits is not None,
    graphs=_graphs,
    tensors=_tensors,
    run=_run,
    judge=_judge,
    prepare=_prepare,
)
