"""Of several candidates the fastest that runs and agrees with the golden examples serves; else the next one."""

import logging
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.repository import choose, classifiers
from resonnx_server.repository.captioner import entry as captioners
from resonnx_server.repository.choosing import turns
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.model_files.golden_examples import Verdict
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import CPU, CUDA, OPENVINO, Candidate, Session
from resonnx_server.scheduling.device import Device

from .. import onnx_classifier
from ..asking import infer
from ..onnx_language import version_files
from ..waiting import Clock

RIGHT, WRONG = Verdict(True, 0.0, "all right"), Verdict(False, 9.0, "all wrong")


class Option:
    """Takes `ns`, the first time a second; may fail in its run number `fails_at`, or when it is made ready."""

    def __init__(self, clock: Clock, ns: int, verdict: Verdict = RIGHT, fails_at: int = -1, ready: bool = True) -> None:
        self.clock, self.ns, self.verdict, self.fails_at, self.is_ready = clock, ns, verdict, fails_at, ready
        self.runs = self.judged = 0

    def run(self) -> None:
        self.clock.ns += self.ns if self.runs else 10**9
        self.runs += 1
        if self.runs == self.fails_at:
            raise RuntimeError("out of memory\nand where it was so")

    def judge(self) -> Verdict:
        self.judged += 1
        self.run()
        return self.verdict

    def prepare(self) -> "Option":
        if not self.is_ready:
            raise ModelRefused("not ready")
        return self


def _fastest(**options: Option) -> Option:
    return choose.fastest(list(options.items()), Option.run, Option.judge, Option.prepare)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands still but for what runs."""
    clock = Clock()
    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter_ns=clock, perf_counter=lambda: clock() / 1e9))
    return clock


@pytest.fixture
def excluded(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """Candidates of which a warning says that they are excluded, and why."""
    caplog.set_level(logging.WARNING)

    def found() -> list[tuple[str, str]]:
        assert {record.message for record in caplog.records} <= {"a provider is excluded"}
        return [(record.candidate, record.reason) for record in caplog.records]

    return found


def test_the_fastest_serves_and_no_other_is_judged(clock: Clock, excluded) -> None:
    slow, fast, between = Option(clock, 900), Option(clock, 100), Option(clock, 500)
    assert _fastest(slow=slow, fast=fast, between=between) is fast
    assert (slow.judged, fast.judged, between.judged) == (0, 1, 0)
    assert excluded() == []


def test_of_those_that_disagree_the_next_fastest_serves(clock: Clock, excluded) -> None:
    slow, wrong, right = Option(clock, 900), Option(clock, 100, WRONG), Option(clock, 500)
    assert _fastest(slow=slow, wrong=wrong, right=right) is right
    assert excluded() == [("wrong", "outputs disagree with the golden examples: all wrong")]


@pytest.mark.parametrize("fails_at", [1, 3, 30], ids=["first run", "timed run", "later turn"])
def test_one_that_raises_is_passed_over(clock: Clock, excluded, fails_at: int) -> None:
    broken, right = Option(clock, 100, fails_at=fails_at), Option(clock, 500)
    assert _fastest(broken=broken, right=right) is right
    assert excluded() == [("broken", "a run failed: out of memory")]


def test_one_that_cannot_be_made_ready_is_passed_over(clock: Clock, excluded) -> None:
    unready, right = Option(clock, 100, ready=False), Option(clock, 500)
    assert _fastest(unready=unready, right=right) is right
    assert excluded() == [("unready", "not ready")]


def test_where_all_fail_the_refusal_names_each_and_why(clock: Clock, excluded) -> None:
    options = {
        "broken": Option(clock, 100, fails_at=1),
        "wrong": Option(clock, 200, WRONG),
        "unready": Option(clock, 300, ready=False),
    }
    with pytest.raises(ModelRefused) as refused:
        _fastest(**options)
    assert refused.value.message.split("; ") == [f"{name}: {reason}" for name, reason in excluded()]
    assert [name for name, _ in excluded()] == ["broken", "wrong", "unready"]


@pytest.mark.parametrize("fails_at", [1, 2, 5])
def test_a_load_that_is_ended_leaves_no_provider_out(clock: Clock, excluded, fails_at: int) -> None:
    """What ends a run is told as an error of the run."""

    class Ended(Option):
        def run(self) -> None:
            if self.runs + 1 == self.fails_at:
                cancellation.cancel()
            super().run()

    options: list[tuple[str, Option]] = [("a", Ended(clock, 2, fails_at=fails_at)), ("b", Option(clock, 3))]
    with Cancellation() as cancellation, pytest.raises(ModelRefused, match=r"^the load was cancelled$"):
        choose.fastest(options, lambda option: option.run(), lambda option: option.judge(), Option.prepare)
    assert excluded() == []


def test_a_single_one_is_not_raced_but_judged(clock: Clock) -> None:
    option = Option(clock, 100)
    assert _fastest(only=option) is option
    assert option.runs == option.judged == 1
    with pytest.raises(ModelRefused, match=r"^only: a run failed: out of memory$"):
        _fastest(only=Option(clock, 100, fails_at=1))


class Fails(Session):
    """On a device that is out of memory."""

    def run(self, *_: object) -> dict[str, np.ndarray]:
        raise RuntimeError("CUDA failure 2: out of memory")


class Lies(Session):
    """Answers what nobody asked."""

    def run(self, *asked: object) -> dict[str, np.ndarray]:
        return {name: array[::-1] for name, array in super().run(*asked).items()}


def _beside_cpu(monkeypatch: pytest.MonkeyPatch, *others: tuple[type[Session], str]) -> None:
    """Let sessions of other kinds open before the CPU provider's, under other providers' names."""

    def opened(files: VersionFiles, file: str, _provider: str, threads: int, *_: object) -> list[Session]:
        sessions = []
        for kind, provider in (*others, (Session, CPU)):
            session = kind(files.files[file], Candidate(CPU, pb.PRECISION_FP32), threads)
            session.candidate = Candidate(provider, pb.PRECISION_FP32)
            sessions.append(session)
        return sessions

    monkeypatch.setattr("resonnx_server.repository.version.open_candidates", opened)


async def test_a_classifier_serves_by_the_candidate_that_runs_and_agrees(
    clock: Clock, excluded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still all are as fast, so the CPU is the last that is judged."""
    _beside_cpu(monkeypatch, (Fails, CUDA), (Lies, OPENVINO))
    golden, device = onnx_classifier.golden(), Device("cpu", 2)
    start = classifiers.ENTRY.load(onnx_classifier.version(device, max_batch_size=4), onnx_classifier.files(), golden)
    assert [(name, reason.split(":")[0]) for name, reason in excluded()] == [
        (f"{CUDA}/fp32", "a run failed"),
        (f"{OPENVINO}/fp32", "outputs disagree with the golden examples"),
    ]
    model = start()
    assert [report.candidate.provider for report in model.sessions] == [CPU]
    outputs, _ = await infer(model.engine, {"image": golden.images})
    np.testing.assert_allclose(outputs["logits"], golden.logits, rtol=1e-4)
    model.engine.close()
    device.close()


def test_a_provider_that_was_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run", Fails.run)
    with pytest.raises(ModelRefused) as refused:
        classifiers.ENTRY.load(
            onnx_classifier.version(provider="cpu"), onnx_classifier.files(), onnx_classifier.golden()
        )
    assert refused.value.message == f"{CPU}/fp32: a run failed: CUDA failure 2: out of memory"


async def test_a_captioner_serves_by_the_pair_that_runs_and_agrees(
    clock: Clock, excluded, monkeypatch: pytest.MonkeyPatch
) -> None:
    _beside_cpu(monkeypatch, (Fails, CUDA))
    device = Device("cpu", 2)
    files, golden = version_files()
    model = captioners.ENTRY.load(onnx_classifier.version(device, max_batch_size=4), files, golden)()
    assert [report.candidate.provider for report in model.sessions] == [CPU, CPU]
    pairs = [f"{CUDA}/fp32 + {CUDA}/fp32", f"{CUDA}/fp32 + {CPU}/fp32", f"{CPU}/fp32 + {CUDA}/fp32"]
    assert excluded() == [(pair, "a run failed: CUDA failure 2: out of memory") for pair in pairs]
    model.engine.close()
    device.close()


def test_a_captioner_that_no_pair_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files, golden = version_files()
    monkeypatch.setattr(Session, "run", Fails.run)
    with pytest.raises(ModelRefused) as refused:
        captioners.ENTRY.load(onnx_classifier.version(provider="cpu"), files, golden)
    assert refused.value.message == f"{CPU}/fp32 + {CPU}/fp32: a run failed: CUDA failure 2: out of memory"


def test_a_load_that_is_ended_while_a_session_is_opened_leaves_no_provider_out(excluded) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with cancellation, pytest.raises(ModelRefused, match=r"^the load was cancelled$"):
        choose.open_candidates(onnx_classifier.files(), "model.onnx", "cpu", 1)
    assert excluded() == []
