"""New versions on live traffic, with a real server: promoted, rolled back, and decided by request."""

from pathlib import Path

import grpc
import pytest
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc

from .. import answering
from .calling import calling, until

_RULE = "agreement>=0.95 and n>=60"


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
    flags = ("--keep-disagreements", "1", "--comparison-reports", str(folder))
    # The model's setting goes before the server's.
    (repository / "m" / "config.toml").write_text("keep_disagreements = 4\n")
    with calling(start_server, repository, *flags) as caller:
        answering.write(repository / "m" / "2", 2)
        with pytest.raises(grpc.RpcError, match=r"keep: 5 pictures are not kept: .* allow 4"):
            caller.shadow(2, keep=5)
        begun = caller.shadow(2, promote_if=_RULE)
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
        caller.shadow(3, promote_if=_RULE + " and compute<=3x")
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


def test_what_is_not_possible_is_refused_by_name(start_server, repository: Path) -> None:
    with calling(start_server, repository) as caller:
        answering.write(repository / "m" / "3", 2, lies=True)
        shadow = pb.COMPARISON_MODE_SHADOW
        cases: tuple[tuple[dict[str, object], str], ...] = (
            ({"promote_if": "p99<=1.1x and n>=5"}, "p99 is measured in a canary only"),
            ({"promote_if": "edit<=1 and n>=5"}, "edit is a measure of captions"),
            ({"share": 1.5}, "share: 1.5 is not above 0"),
            ({}, "version 3 of model 'm' was refused: "),
        )
        for more, told in cases:
            with pytest.raises(grpc.RpcError) as caught:
                caller.start(3, shadow, **more)
            assert told in caught.value.details()
        answering.write(repository / "m" / "2", 2)
        with pytest.raises(grpc.RpcError, match=r"keep: 1 pictures are not kept: .* allow 0"):
            caller.start(2, shadow, keep=1)
        request = pb.StartComparisonRequest(model="m", version=7, mode=shadow)
        with pytest.raises(grpc.RpcError, match="has no version 7"):
            caller.admin.StartComparison(request, timeout=20)
        with pytest.raises(grpc.RpcError, match="is not being compared"):
            caller.admin.Promote(pb.PromoteRequest(model="m"), timeout=20)
        with pytest.raises(grpc.RpcError, match="admin"):
            repository_pb2_grpc.RepositoryStub(caller.channel).Status(pb.StatusRequest(), timeout=20)
        assert caller.classify() == (1, 1)
