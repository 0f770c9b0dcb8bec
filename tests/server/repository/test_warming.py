"""Every session that serves gives the golden answers at every batch size, or the model is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.repository import classifiers
from resonnx_server.repository.choosing.turns import Raced
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.warming import VerifiedRun
from resonnx_server.runtime.machine.processor_time import ProcessorTime
from resonnx_server.runtime.model_files.golden_examples import Verdict
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import CPU, OPENVINO, Candidate, Session
from resonnx_server.scheduling.measurement import measure

from ..onnx_classifier import FILE, files, golden, version

Tensors = dict[str, np.ndarray]


class LiesAtSix(Session):
    """Answers to batches of six are those of other rows."""

    def run(self, *asked: object) -> Tensors:
        outputs = super().run(*asked)
        return {name: array[::-1] if len(array) == 6 else array for name, array in outputs.items()}


def _opens(monkeypatch: pytest.MonkeyPatch, *kinds: tuple[type[Session], str]) -> None:
    """Let the candidates' sessions be these, of one thread, under these providers' names."""

    def opened(files: VersionFiles, file: str, *_: object) -> list[Session]:
        sessions = []
        for kind, provider in kinds:
            session = kind(files.files[file], Candidate(CPU, pb.PRECISION_FP32), 1)
            session.candidate = Candidate(provider, pb.PRECISION_FP32)
            sessions.append(session)
        return sessions

    monkeypatch.setattr("resonnx_server.repository.version.open_candidates", opened)


@pytest.mark.parametrize("wrong_at", [1, 4, 6, 8])
def test_a_size_with_wrong_answers_refuses_the_model(wrong_at: int) -> None:
    """The golden examples are three, and right."""
    with pytest.raises(ModelRefused) as refused:
        classifiers.ENTRY.load(version(max_batch_size=8, threads=1, provider="cpu"), files(wrong_at), golden(3))
    name = f"{CPU}/fp32"
    expected = f"{name}: outputs of {FILE} on {name} (threads 1) for batches of {wrong_at} disagree with the golden"
    assert refused.value.message.startswith(expected)
    assert "max|delta|" in refused.value.message


def test_a_size_that_is_never_run_does_not_matter() -> None:
    assert callable(classifiers.ENTRY.load(version(max_batch_size=8), files(wrong_at=5), golden(3)))


def test_a_session_that_was_opened_beside_the_judged_one_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lies(Session):
        def run(self, *asked: object) -> Tensors:
            return {name: -array for name, array in super().run(*asked).items()}

    def opened_again(session: Session, model: bytes, threads: int, *, spinning: bool = False) -> Session:
        return Lies(model, session.candidate, threads, spinning=spinning, view=session.view)

    monkeypatch.setattr(Session, "opened_again", opened_again)
    with pytest.raises(ModelRefused, match=r"\(threads 1\) for batches of 1 disagree"):
        classifiers.ENTRY.load(version(max_batch_size=8), files(), golden(3))


def test_the_next_candidate_serves_where_one_is_wrong_at_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    _opens(monkeypatch, (LiesAtSix, OPENVINO))
    with pytest.raises(ModelRefused, match=r"\(threads 1\) for batches of 6 disagree"):
        classifiers.ENTRY.load(version(max_batch_size=8, threads=1), files(), golden(3))
    _opens(monkeypatch, (LiesAtSix, OPENVINO), (LiesAtSix, OPENVINO), (Session, CPU))
    assert callable(classifiers.ENTRY.load(version(max_batch_size=8, threads=1), files(), golden(3)))


def test_a_small_batch_is_judged_on_the_scale_of_all_golden_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one's logits are nought: by themselves nothing would be near enough."""
    pictures = golden(3).images.copy()
    pictures[0] = 0
    reference = Session(files().files[FILE], Candidate(CPU, pb.PRECISION_FP32), 1).run({"image": pictures})["logits"]
    assert not reference[0].any()
    scale = np.abs(reference).max()

    def load(off: float) -> object:
        class Coarse(Session):
            def run(self, *asked: object) -> Tensors:
                outputs = super().run(*asked)
                # Where golden examples are judged, and nowhere else, all is as it should be.
                exact = len(outputs["logits"]) == len(reference)
                return outputs if exact else {**outputs, "logits": outputs["logits"] + np.float32(off * scale)}

        _opens(monkeypatch, (Coarse, CPU))
        return classifiers.ENTRY.load(
            version(max_batch_size=2, threads=1), files(), replace(golden(3), images=pictures, logits=reference)
        )

    assert callable(load(0.9e-3))
    with pytest.raises(ModelRefused, match=r"for batches of 1 disagree .* \(bound 0.001\)"):
        load(1.1e-3)


def _sizes_run(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Batch sizes that sessions run from now on."""
    sizes = set()
    run = Session.run

    def noted(session: Session, feeds: Tensors, *more: object) -> Tensors:
        sizes.add(len(feeds["image"]))
        return run(session, feeds, *more)

    monkeypatch.setattr(Session, "run", noted)
    return sizes


def test_with_cached_tables_the_cpu_runs_no_size_for_the_judgement_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Sizes that seem bad are measured again, and all where something else held the processors; so are choices.
    monkeypatch.setattr("resonnx_server.repository.warming.far_above", lambda _: set())
    monkeypatch.setattr(ProcessorTime, "is_disturbed", False)
    monkeypatch.setattr(Raced, "is_doubtful", False)
    for expected in ({1, 2, 3, 4, 6, 8}, {3, 8}):
        with monkeypatch.context() as patch:
            sizes = _sizes_run(patch)
            classifiers.ENTRY.load(version(cache=LatencyCache(tmp_path, 2), max_batch_size=8), files(), golden(3))
            assert sizes == expected


def test_with_cached_tables_other_providers_are_judged_at_every_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = version(cache=LatencyCache(tmp_path, 1), max_batch_size=8, threads=1)
    _opens(monkeypatch, (Session, OPENVINO))
    classifiers.ENTRY.load(loaded, files(), golden(3))
    tables = sorted(tmp_path.iterdir())
    _opens(monkeypatch, (LiesAtSix, OPENVINO))
    with pytest.raises(ModelRefused, match="for batches of 6 disagree"):
        classifiers.ENTRY.load(loaded, files(), golden(3))
    assert sorted(tmp_path.iterdir()) == tables != []


def test_the_first_run_of_each_size_is_judged_and_no_other() -> None:
    ran: list[int] = []
    judged: list[int] = []

    def judge(rows: int) -> Verdict:
        judged.append(rows)
        assert ran == [], "in the warm-up, before any run is timed"
        return Verdict(True, 0.0, "")

    session = Session(files().files[FILE], Candidate(CPU, pb.PRECISION_FP32), 1)
    measure(VerifiedRun(ran.append, judge, FILE, session), (1, 4, 16))
    assert judged == [1, 4, 16]
    assert set(ran) == {1, 4, 16}
