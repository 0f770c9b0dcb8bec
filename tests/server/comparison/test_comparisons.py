"""New versions on live traffic, with a real server: promoted, rolled back, and decided by request."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc, vision_pb2, vision_pb2_grpc

from ...conftest import RunningServer
from .. import answering

_RULE = "agreement>=0.95 and n>=60"
_RANDOM = np.random.default_rng(3)


class Caller:
    """A client of the server's port, and of its admin port."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.channel, self.admin_channel = grpc.insecure_channel(server.grpc), grpc.insecure_channel(server.admin)
        self.vision = vision_pb2_grpc.VisionStub(self.channel)
        # By version.
        self.answers = Counter[int]()
        self.admin = repository_pb2_grpc.RepositoryStub(self.admin_channel)

    def classify(self, identifier: str = "", **version: int | str) -> tuple[int, int]:
        """Return the version that has answered a random picture, and the best class."""
        side = answering.SIDE
        raw = vision_pb2.Image.Raw(rgb=_RANDOM.bytes(side * side * 3), width=side, height=side)
        request = vision_pb2.ClassifyRequest(model="m", image={"raw": raw}, top_k=1, id=identifier, **version)
        answer = self.vision.Classify(request, timeout=20)
        self.answers[answer.version] += 1
        return answer.version, answer.predictions[0].index

    def start(self, version: int, mode: int, **more: object) -> pb.Comparison:
        """Begin to compare a version."""
        request = pb.StartComparisonRequest(model="m", version=version, mode=mode, **more)
        return self.admin.StartComparison(request, timeout=60).comparison

    def status(self) -> pb.Comparison:
        """Return the model's comparison."""
        (found,) = self.admin.Status(pb.StatusRequest(model="m"), timeout=20).comparisons
        return found

    def classify_until_ended(self) -> pb.Comparison:
        """Classify until the comparison has a verdict; all are answered. Return how it ended."""
        return until(self.status, lambda it: it.state != pb.COMPARISON_STATE_RUNNING, self.classify)


def until(
    get: Callable[[], pb.Comparison], holds: Callable[[pb.Comparison], bool], do: Callable[[], object]
) -> pb.Comparison:
    """Return the first result of `get` that holds, and do something in between."""
    ends = time.monotonic() + 60
    while not holds(found := get()):
        assert time.monotonic() < ends, found
        for _ in range(10):
            do()
    return found


@contextmanager
def calling(start_server, repository: Path, *flags: str) -> Iterator[Caller]:
    with start_server(
        repository, "--admin-port", "0", "--control-mode", "explicit", "--load-models", "m", *flags
    ) as it:
        caller = Caller(it)
        with caller.channel, caller.admin_channel:
            yield caller


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose model has version 1, which answers with class 1."""
    answering.write(tmp_path / "m" / "1", 1)
    return tmp_path


def test_a_version_that_answers_otherwise_is_rolled_back_and_an_identical_one_is_promoted(
    start_server, repository: Path
) -> None:
    folder = repository.parent / "reports"
    folder.mkdir(exist_ok=True)
    flags = ("--keep-disagreements", "4", "--comparison-reports", str(folder))
    with calling(start_server, repository, *flags) as caller:
        answering.write(repository / "m" / "2", 2)
        begun = caller.start(2, pb.COMPARISON_MODE_SHADOW, share=1, promote_if=_RULE)
        assert (begun.version, begun.serving_version) == (2, 1)
        ended = caller.classify_until_ended()
        assert ended.state == pb.COMPARISON_STATE_ROLLED_BACK
        assert ended.answers < 60
        assert "agreement>=0.95 permits 3 of 60" in ended.reason
        assert caller.classify() == (1, 1)
        with pytest.raises(grpc.RpcError, match="rolled back: "):
            caller.classify(version=2)
        page = until(caller.status, lambda it: bool(it.report), lambda: None).report
        text = Path(page).read_text()
        assert text.count('src="data:image/png;base64,') == 4
        assert "class 1 " in text
        assert "class 2 " in text
        assert "<script" not in text

        answering.write(repository / "m" / "3", 1)
        caller.start(3, pb.COMPARISON_MODE_SHADOW, share=1, promote_if=_RULE + " and compute<=3x")
        # It is loaded, and answers only those who name it.
        assert caller.classify() == (1, 1)
        assert caller.classify(version=3) == (3, 1)
        ended = caller.classify_until_ended()
        assert ended.state == pb.COMPARISON_STATE_PROMOTED, ended.reason
        assert ended.answers == ended.equal >= 60
        assert ended.compute_ratio > 0
        assert caller.classify() == (3, 1)
        assert caller.server.metric("resonnx_comparison_answers_total", model="m", version="3", result="equal") >= 60
        # Runs of the comparison, here on the version that serves as well, have counters of their own.
        assert caller.server.metric("resonnx_comparison_processor_seconds_total", model="m", version="3") > 0
        # Runs of the comparison are not counted as requests.
        for version, count in caller.answers.items():
            assert caller.server.metric("nv_inference_count", model="m", version=str(version)) == count
        # The old one drains, as version_policy chooses the latest only.
        with pytest.raises(grpc.RpcError, match="version 1"):
            caller.classify(version=1)


def test_a_canary_answers_a_share_of_callers_always_the_same(start_server, repository: Path) -> None:
    with calling(start_server, repository) as caller:
        answering.write(repository / "m" / "2", 2)
        caller.start(2, pb.COMPARISON_MODE_CANARY, share=0.5)
        ids = [f"user {number}" for number in range(24)]
        first = {identifier: caller.classify(identifier) for identifier in ids}
        assert {*first.values()} == {(1, 1), (2, 2)}
        assert {identifier: caller.classify(identifier) for identifier in ids} == first
        # Those who name a version get it.
        assert {caller.classify(identifier, version=1) for identifier in ids} == {(1, 1)}
        status = until(caller.status, lambda it: it.answers >= 4, lambda: [caller.classify(each) for each in ids])
        assert (status.equal, status.p99_ms) == (0, 0)
        assert status.calls > 0 < status.serving_calls
        ended = caller.admin.Rollback(pb.RollbackRequest(model="m"), timeout=20).comparison
        assert (ended.state, ended.reason[:10]) == (pb.COMPARISON_STATE_ROLLED_BACK, "by request")
        assert {caller.classify(identifier) for identifier in ids} == {(1, 1)}

        # What is not possible is refused by name.
        answering.write(repository / "m" / "3", 2, lies=True)
        shadow = pb.COMPARISON_MODE_SHADOW
        cases: tuple[tuple[dict[str, object], str], ...] = (
            ({"promote_if": "p99<=1.1x and n>=5"}, "p99 is measured in a canary only"),
            ({"promote_if": "edit<=1 and n>=5"}, "edit is a measure of captions"),
            ({"share": 1.5}, "share: 1.5 is not above 0"),
            ({"keep": 5}, "keep: 5 pictures are not kept"),
            ({}, "version 3 of model 'm' was refused: "),
        )
        for more, told in cases:
            with pytest.raises(grpc.RpcError) as caught:
                caller.start(3, shadow, **more)
            assert told in caught.value.details()
        request = pb.StartComparisonRequest(model="m", version=7, mode=shadow)
        with pytest.raises(grpc.RpcError, match="has no version 7"):
            caller.admin.StartComparison(request, timeout=20)
        with pytest.raises(grpc.RpcError, match="is not being compared"):
            caller.admin.Promote(pb.PromoteRequest(model="m"), timeout=20)
        with pytest.raises(grpc.RpcError, match="admin"):
            repository_pb2_grpc.RepositoryStub(caller.channel).Status(pb.StatusRequest(), timeout=20)
        assert caller.classify() == (1, 1)
