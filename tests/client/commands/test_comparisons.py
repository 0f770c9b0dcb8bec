"""The command line: new versions on live traffic."""

import json

import grpc
import pytest
from resonnx_proto.v1 import repository_pb2 as pb

_COMPARISON = pb.Comparison(
    model="digits",
    version=2,
    serving_version=1,
    mode=pb.COMPARISON_MODE_SHADOW,
    share=0.1,
    promote_if="agreement>=0.99 and n>=2000",
    state=pb.COMPARISON_STATE_RUNNING,
    reason="40 of 2000 answers are compared",
    answers=40,
    equal=39,
    max_probability_difference=0.25,
    compute_ratio=1.04,
)


def test_a_comparison_is_started_as_it_is_asked_for(run, vision) -> None:
    vision.script["StartComparison"] = lambda request, context: pb.StartComparisonResponse(comparison=_COMPARISON)
    rule = "agreement>=0.99 and n>=2000"
    done = run("repo", "canary", "digits", "2", "--shadow", "--share", "10%", "--promote-if", rule, "--keep", "0")
    assert (done.exit_code, done.stderr) == (0, "")
    assert run("repo", "canary", "digits", "2", "--share", "0.2").exit_code == 0
    first, second = vision.requests
    shadow = {"model": "digits", "version": 2, "mode": pb.COMPARISON_MODE_SHADOW, "share": 0.1}
    assert first == pb.StartComparisonRequest(**shadow, promote_if=rule, keep=0)
    assert second == pb.StartComparisonRequest(model="digits", version=2, mode=pb.COMPARISON_MODE_CANARY, share=0.2)


@pytest.mark.parametrize("share", ["0", "120%", "five", "nan", "-1%"])
def test_a_share_is_above_0_and_at_most_all(run, vision, share: str) -> None:
    done = run("repo", "canary", "digits", "2", f"--share={share}")
    assert (done.exit_code, vision.requests) == (2, [])
    assert "share" in done.stderr


def test_the_status_as_a_table_and_as_lines(run, vision) -> None:
    canary = pb.Comparison(
        model="scenes",
        version=5,
        serving_version=4,
        mode=pb.COMPARISON_MODE_CANARY,
        share=0.05,
        state=pb.COMPARISON_STATE_ROLLED_BACK,
        reason="by request",
        answers=2,
        mean_edit_distance=1.5,
        p99_ms=12.3,
        serving_p99_ms=11.1,
        report="/reports/scenes.html",
    )
    vision.script["Status"] = lambda request, context: pb.StatusResponse(comparisons=[_COMPARISON, canary])
    done = run("repo", "status")
    assert done.stdout.splitlines() == [
        "NAME    VERSION  MODE         STATE        ANSWERS  EQUAL   MAX |ΔP|  EDITS  COMPUTE  P99 MS       REASON",
        "digits  2 (1)    shadow 0.1   running      40       97.50%  0.25      -      1.04x    -            "
        "40 of 2000 answers are compared",
        "scenes  5 (4)    canary 0.05  rolled back  2        0.00%   -         1.5    -        12.3 (11.1)  "
        "by request (report on the server: /reports/scenes.html)",
    ]
    first, second = map(json.loads, run("repo", "status", "--json").stdout.splitlines())
    assert (first["state"], first["agreement"], first["mode"]) == ("running", 0.975, "shadow")
    assert (second["state"], second["p99_ms"], second["report"]) == ("rolled_back", 12.3, "/reports/scenes.html")


@pytest.mark.parametrize(("command", "rpc", "response"), [
    ("promote", "Promote", pb.PromoteResponse(comparison=_COMPARISON)),
    ("rollback", "Rollback", pb.RollbackResponse(comparison=_COMPARISON)),
])  # fmt: skip
def test_a_decision_by_hand(run, vision, command: str, rpc: str, response: object) -> None:
    vision.script[rpc] = lambda request, context: response
    done = run("repo", command, "digits")
    assert (done.exit_code, vision.requests[0].model) == (0, "digits")
    assert done.stdout.splitlines()[1].startswith("digits  2 (1)")
    vision.script[rpc] = lambda request, context: vision.fail(context, grpc.StatusCode.NOT_FOUND, "is not compared")
    done = run("repo", command, "digits", "--json")
    assert (done.exit_code, json.loads(done.stdout)["error"]["message"]) == (1, "is not compared")
