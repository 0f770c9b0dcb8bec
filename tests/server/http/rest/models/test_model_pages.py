"""Models and comparisons as JSON: of the demo models, and of a server whose versions are refused and compared."""

from collections.abc import Iterator

import grpc
import pytest
from resonnx_proto.v1 import manifest_pb2, repository_pb2_grpc, vision_pb2, vision_pb2_grpc
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_server.access.keys import digest_of

from .....conftest import RunningServer
from .... import answering
from ..asking_http import Answered, ask


def _rows(answer: Answered, name: str) -> dict[int, dict[str, object]]:
    """Return the versions of a model in the list."""
    return {each["version"]: each for each in answer.json["models"] if each["name"] == name}


def test_the_list_has_the_demo_models(demo_server: RunningServer) -> None:
    answer = ask(demo_server.http, "/v1/models")
    assert answer.headers["Content-Type"] == "application/json"
    assert [(each["name"], each["task"]) for each in answer.json["models"]] == [
        ("digits", "classifier"),
        ("scenes", "captioner"),
    ]
    digits = answer.json["models"][0]
    assert (digits["state"], digits["reason"], digits["labels"], digits["is_default"]) == ("ready", "", [], True)
    assert (digits["verified"], digits["verified_against"]) == (True, "our_reading")


@pytest.mark.parametrize("name", ["digits", "scenes"])
def test_a_model_is_described_as_by_get_model(demo_server: RunningServer, name: str) -> None:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        expected = vision_pb2_grpc.VisionStub(channel).GetModel(vision_pb2.GetModelRequest(model=name), timeout=20)
    given = ask(demo_server.http, f"/v1/models/{name}").json
    assert (given["name"], given["version"], given["identity"]) == (name, 1, expected.identity)
    assert given["max_batch_size"] == expected.max_batch_size
    assert [each["provider"] for each in given["sessions"]] == [each.provider for each in expected.sessions]
    names = {manifest_pb2.Precision.Name(each.precision) for each in expected.sessions}
    assert {f"PRECISION_{each['precision'].upper()}" for each in given["sessions"]} == names
    for session in given["sessions"]:
        sizes = [each["batch_size"] for each in session["latencies"]]
        assert sizes == sorted(sizes)
        assert sizes
        assert all(each["expected_us"] > 0 for each in session["latencies"])
    manifest = expected.manifest
    assert given["input"] == {"width": manifest.input.width, "height": manifest.input.height, "resize": "stretch"}
    checks = given["parity"]["checks"]
    assert [each["name"] for each in checks] == [each.name for each in manifest.parity.checks]
    assert all(0 <= each["max_abs_difference"] <= each["bound"] for each in checks)
    assert given["parity"]["damaged_copy_rejected"] is True
    assert [each["name"] for each in given["assumptions"]] == [each.name for each in manifest.assumptions]
    if name == "digits":
        assert given["classes"] == 10
        maps = manifest.classifier.heatmaps
        assert (given["heatmap_rows"], given["heatmap_columns"]) == (maps.rows, maps.columns)
    else:
        assert given["words"] == len(manifest.captioner.vocabulary)
        assert given.get("attention_rows", 0) == manifest.captioner.attention_rows


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("nobody", 404, "MODEL_NOT_FOUND"),
        ("digits?version=7", 404, "MODEL_NOT_FOUND"),
        ("digits?version=canary", 404, "MODEL_NOT_FOUND"),
        ("digits?version=1&version=1", 400, "INVALID_INPUT"),
        ("digits?names=1", 400, "INVALID_INPUT"),
        ("digits?version=1", 200, ""),
    ],
)
def test_versions_that_there_are_not(demo_server: RunningServer, query: str, status: int, reason: str) -> None:
    answer = ask(demo_server.http, f"/v1/models/{query}")
    assert (answer.status, answer.json["reason"]) == (status, reason), answer.json


@pytest.fixture(scope="module")
def compared(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of `m`, whose version 2 is compared with version 1, and of `broken`, which is refused; with keys."""
    folder = tmp_path_factory.mktemp("compared")
    answering.write(folder / "models/m/1", 1)
    answering.write(folder / "models/broken/1", 1, lies=True)
    (folder / "resonnx.toml").write_text("[models.m]\nlabels = {stable = 1}\n")
    keys = [("all", "['infer', 'read', 'admin']", "['m', 'broken']"), ("read", "['read']", "['m']")]
    keys += [("infer", "['infer']", "['m']"), ("stranger", "['read']", "['other']")]
    (folder / "keys.toml").write_text(
        "".join(
            f"[keys.{name}]\nsha256 = '{digest_of(name).hex()}'\nroles = {roles}\nmodels = {models}\n"
            for name, roles, models in keys
        )
    )
    flags = ["--config", str(folder / "resonnx.toml"), "--keys-file", str(folder / "keys.toml"), "--admin-port", "0"]
    flags += ["--control-mode", "explicit", "--load-models", "*", "--no-page"]
    with start_server(folder / "models", *flags) as server:
        answering.write(folder / "models/m/2", 2)
        with grpc.insecure_channel(server.admin) as channel:
            request = pb.StartComparisonRequest(
                model="m", version=2, mode=pb.COMPARISON_MODE_SHADOW, share=0.5, promote_if="agreement>=0.9 and n>=2000"
            )
            stub = repository_pb2_grpc.RepositoryStub(channel)
            stub.StartComparison(request, metadata=[("authorization", "Bearer all")], timeout=60)
        yield server


def test_versions_are_listed_with_their_labels_and_why_they_do_not_serve(compared: RunningServer) -> None:
    answer = ask(compared.http, "/v1/models", Authorization="Bearer all")
    rows = _rows(answer, "m")
    assert (rows[1]["state"], rows[1]["labels"], rows[1]["is_default"]) == ("ready", ["stable"], True)
    assert (rows[2]["state"], rows[2]["is_default"]) == ("ready", False)
    (broken,) = _rows(answer, "broken").values()
    assert broken["state"] == "refused"
    assert "golden" in str(broken["reason"])
    refused = ask(compared.http, "/v1/models/broken", Authorization="Bearer all")
    assert (refused.status, refused.json["reason"]) == (503, "MODEL_REFUSED")


def test_a_comparison_is_told_to_readers_of_its_model(compared: RunningServer) -> None:
    (told,) = ask(compared.http, "/v1/comparisons", Authorization="Bearer read").json["comparisons"]
    assert (told["model"], told["version"], told["serving_version"]) == ("m", 2, 1)
    assert (told["mode"], told["state"], told["share"]) == ("shadow", "running", 0.5)
    assert "n>=2000" in told["promote_if"]
    assert told["reason"]
    assert "report" not in told
    assert ask(compared.http, "/v1/comparisons", Authorization="Bearer stranger").json == {"comparisons": []}


def test_the_page_is_there_unless_it_is_off(demo_server: RunningServer, compared: RunningServer) -> None:
    assert ask(demo_server.http, "/").body.startswith(b"<!doctype html>")
    assert ask(compared.http, "/", Authorization="Bearer all").status == 404
    # As any path without a page.
    assert ask(compared.http, "/").status == 401


def test_a_key_sees_its_own_models_and_needs_the_role_read(compared: RunningServer) -> None:
    assert [each["name"] for each in ask(compared.http, "/v1/models", Authorization="Bearer read").json["models"]] == [
        "m",
        "m",
    ]
    other = ask(compared.http, "/v1/models/broken", Authorization="Bearer read")
    assert (other.status, other.json["reason"]) == (403, "MODEL_NOT_ALLOWED")
    for path in ("/v1/models", "/v1/models/m", "/v1/comparisons"):
        assert ask(compared.http, path).status == 401
        assert ask(compared.http, path, Authorization="Bearer infer").json["reason"] == "ROLE_MISSING"
