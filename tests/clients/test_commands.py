"""Programs that people call services by: grpcurl, which reads descriptors by reflection, and curl."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..server import clip_model
from ..server.clip_model import gif
from .environments import grpcurl_program
from .served import Tapped

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Grpcurl = Callable[..., str]
_OIP, _VISION, _REPOSITORY = "inference.GRPCInferenceService", "resonnx.v1.Vision", "resonnx.v1.Repository"


@pytest.fixture
def grpcurl(tapped: Tapped) -> Grpcurl:
    """Run it with arguments, and return what it prints."""

    def run(*arguments: str) -> str:
        command = [grpcurl_program(), "-plaintext", "-max-time", "30", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("client", ["grpcurl"], indirect=True)
def test_grpcurl(client: str, tapped: Tapped, grpcurl: Grpcurl) -> None:
    told = tapped.told

    def call(method: str, *requests: dict[str, Any], more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Return the answers."""
        text = grpcurl(*more, "-d", "".join(map(json.dumps, requests)) or "{}", told["grpc"], method)
        decoder, at, answers = json.JSONDecoder(), 0, []
        while at < len(text.rstrip()):
            answer, at = decoder.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
            answers.append(answer)
        return answers

    listed = grpcurl(told["grpc"], "list").split()
    assert {_OIP, _VISION, _REPOSITORY, "grpc.health.v1.Health"} <= {*listed}
    assert "ClassifyRequest" in grpcurl(told["grpc"], "describe", f"{_VISION}.Classify")
    for method in ("ServerLive", "ServerReady", "ServerMetadata", "ModelStatistics", "RepositoryIndex",
                   "SystemSharedMemoryStatus", "CudaSharedMemoryStatus", "TraceSetting", "LogSettings"):  # fmt: skip
        call(f"{_OIP}/{method}")
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        call(f"{_OIP}/{method}", {"name": "digits", "version": "1"})
    (ready,) = call(f"{_OIP}/RepositoryIndex", {"ready": True})
    assert "digits" in {model["name"] for model in ready["models"]}
    call(f"{_OIP}/RepositoryModelLoad", {"model_name": "spare"})
    call(f"{_OIP}/RepositoryModelUnload", {"model_name": "spare"})
    file = base64.b64encode(Path(told["picture"]).read_bytes()).decode()
    given = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [file]}}
    wanted = {"name": "probabilities", "parameters": {"classification": {"int64_param": 1}}}
    asked = {
        "model_name": "digits",
        "inputs": [given],
        "outputs": [wanted],
        "parameters": {"priority": {"int64_param": 1}},
    }
    (inferred,) = call(f"{_OIP}/ModelInfer", asked, more=("-H", "authorization: Bearer unused"))
    assert base64.b64decode(inferred["raw_output_contents"][0])[4:].decode().endswith(f":{told['label']}")
    assert len(call(f"{_OIP}/ModelStreamInfer", {**asked, "id": "1"}, {**asked, "id": "2"})) == 2
    picture = {"encoded": file}
    asked = {"model": "digits", "image": picture, "top_k": 1, "return_heatmap": True}
    (classified,) = call(f"{_VISION}/Classify", asked)
    assert classified["predictions"][0]["heatmap"]
    assert classified["predictions"][0]["label"] == told["label"]
    assert len(call(f"{_VISION}/ClassifyStream", *({"model": "digits", "image": picture, "id": i} for i in "ab"))) == 2
    scene = {"encoded": base64.b64encode(Path(told["scene"]).read_bytes()).decode()}
    (captioned,) = call(f"{_VISION}/Caption", {"model": "scenes", "image": scene, "beam_width": 2})
    assert captioned["captions"][0]["text"]
    assert "final" in call(f"{_VISION}/StreamCaption", {"model": "scenes", "image": scene})[-1]
    side = clip_model.SIDE
    raw = {"raw": {"rgb": base64.b64encode(clip_model.clip(1).tobytes()).decode(), "width": side, "height": side}}
    asked = {"model": "motions", "version": 1, "id": "v", "top_k": 2, "priority": 2, "timeout_us": 10_000_000}
    video = {"images": [picture, raw], "times_s": [0, 0.04]}
    (watched,) = call(f"{_VISION}/ClassifyVideo", {**asked, "frames": video})
    assert len(watched["predictions"]) == 2
    (watched,) = call(f"{_VISION}/ClassifyVideo", {**asked, "clip": base64.b64encode(gif(clip_model.clip(5))).decode()})
    assert watched["frames_read"] == [0, 1, 2, 3, 4]
    del asked["version"]
    call(f"{_VISION}/ClassifyVideo", {**asked, "frames": video, "version_label": "canary"})
    for version in ({"version": 1}, {"version_label": "canary"}):
        first = {**asked, **version, "image": raw, "answer_every": 2, "time_s": 0.5}
        answers = call(f"{_VISION}/ClassifyVideoStream", first, {"image": picture, "time_s": 0.6})
        assert [each["frames_read"] for each in answers] == ["2", "2"]
        assert answers[-1]["is_final"]
    assert call(f"{_VISION}/ListModels")[0]["models"]
    assert call(f"{_VISION}/GetModel", {"model": "digits"})[0]["summary"]["name"] == "digits"
    (health,) = call("grpc.health.v1.Health/Check", {"service": f"{_VISION}/digits"})
    assert health["status"] == "SERVING"
    begun = {"model": "proven", "version": 2, "mode": "COMPARISON_MODE_SHADOW", "share": 0.5, "keep": 0}
    for end in ("Rollback", "Promote"):
        call(f"{_REPOSITORY}/StartComparison", {**begun, "promote_if": "agreement>=0.99 and n>=1000"})
        assert "proven" in json.dumps(call(f"{_REPOSITORY}/Status", {"model": "proven"}))
        call(f"{_REPOSITORY}/{end}", {"model": "proven"})


@pytest.mark.parametrize("client", ["curl"], indirect=True)
def test_curl(client: str, tapped: Tapped, tmp_path: Path) -> None:
    told = tapped.told
    if shutil.which("curl") is None:
        pytest.skip("needs curl")

    def curl(path: str, *arguments: str) -> str:
        command = ["curl", "-sS", "--fail-with-body", "-m", "30", "--compressed", *arguments, told["http"] + path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    digit, scene = f"@{told['picture']}", f"@{told['scene']}"
    for path in ("/livez", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready"):
        curl(path)
    for path in ("/v2/models/digits", "/v2/models/digits/versions/1", "/v2/models/digits/versions/canary"):
        for page in ("", "/ready", "/config"):
            curl(path + page)
    assert {each["name"] for each in json.loads(curl("/v1/models"))["models"]} >= {"digits", "scenes"}
    assert json.loads(curl("/v1/models/digits?version=1"))["classes"] == 10
    assert "comparisons" in json.loads(curl("/v1/comparisons"))
    assert "nv_inference_request_success" in curl("/metrics", "-H", "authorization: Bearer unused")
    options = "?top_k=1&return_features=true&return_heatmap=true&id=a&priority=1&timeout_us=10000000"
    for version in ("1", "canary"):
        answer = json.loads(curl(f"/v1/classify/digits{options}&version={version}", "--data-binary", digit))
        assert (answer["predictions"][0]["label"], answer["version"]) == (told["label"], 1)
        assert answer["predictions"][0]["heatmap"]
    assert len(json.loads(curl("/v1/classify/digits", "-F", f"a={digit}", "-F", f"b={digit}"))["pictures"]) == 2
    usual = "id=c&priority=1&timeout_us=10000000&version=1&max_tokens=12"
    beams = "beam_width=3&num_captions=2&min_tokens=2&length_normalization=gnmt&return_attention=true"
    best = json.loads(curl(f"/v1/caption/scenes?{usual}&{beams}", "--data-binary", scene))
    assert len(best["captions"]) == 2
    words = best["captions"][0]["text"].split()
    steered = f"temperature=0.8&top_k=5&top_p=0.9&seed=3&prefix={words[0]}&forbidden_words={words[-1]}"
    sampled = json.loads(curl(f"/v1/caption/scenes?{usual}&{steered}", "--data-binary", scene))
    assert sampled["captions"][0]["text"].split()[0] == words[0]
    assert json.loads(curl("/v1/caption/scenes", "-F", f"a={scene}", "-F", f"b={scene}"))["pictures"]
    events = curl("/v1/caption/scenes", "-N", "-H", "Accept: text/event-stream", "--data-binary", scene)
    assert "event: word" in events
    assert "event: caption" in events
    (moving := tmp_path / "clip.gif").write_bytes(gif(clip_model.clip(5)))
    options = "top_k=2&id=e&priority=1&timeout_us=10000000&version=1"
    watched = json.loads(curl(f"/v1/classify-video/motions?{options}", "--data-binary", f"@{moving}"))
    assert (watched["frames_read"], len(watched["predictions"])) == ([0, 1, 2, 3, 4], 2)
    frames = "/v1/classify-video/motions?times_s=0,0.04"
    assert json.loads(curl(frames, "-F", f"frame={digit}", "-F", f"frame={digit}"))["frames_read"] == [0, 1]
    body = {
        "id": "d",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}],
        "parameters": {"timeout": 10_000_000},
    }
    for version in ("", "/versions/1"):
        answer = json.loads(
            curl(f"/v2/models/doubling{version}/infer", "-H", "Grpc-Timeout: 10S", "-d", json.dumps(body))
        )
        assert answer["outputs"][0]["data"] == [2, 4, 6]
    file = base64.b64encode(Path(told["picture"]).read_bytes()).decode()
    encoded = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "data": [file],
        "parameters": {"content_type": "base64"},
    }
    asked = {"inputs": [encoded], "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}]}
    answer = json.loads(curl("/v2/models/digits/infer", "-d", json.dumps(asked)))
    assert answer["outputs"][0]["data"][0].endswith(f":{told['label']}")
    binary = {"inputs": body["inputs"], "parameters": {"binary_data_output": True}}
    curl("/v2/models/doubling/infer", "-o", "/dev/null", "-d", json.dumps(binary))
