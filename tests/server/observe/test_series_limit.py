"""The page has a limited number of series a model, with all that a server can do switched on, and names no stranger."""

import re
import shutil
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
import resonnx
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc
from resonnx_server.access.keys import digest_of
from resonnx_server.observe.series.predictions import MOST_CLASSES

from .metrics_page import read

_LIMITS = {"digits": 200, "scenes": 260}
# Of one kind of traffic: three in each of two windows, of pictures and of captions.
_OF_DRIFT = {"digits": 3 * 2, "scenes": 3 * 2 * 2}
# More than the 30 after which drift is told.
_ROWS = 40
pytestmark = pytest.mark.slow
_KEYS = ("alice", "bob", "carol")
# All that a model can count: others are of calls that no model counts.
_REASONS = {
    *("INVALID_INPUT", "BAD_IMAGE", "PRIORITY_NOT_ALLOWED", "REGION_NOT_FOUND", "MESSAGE_TOO_LARGE", "NOT_SUPPORTED"),
    *("QUEUE_FULL", "WAIT_TOO_LONG", "MEMORY_SPENT", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DEADLINE_UNREACHABLE"),
    *("INFERENCE_FAILED", "INFERENCE_HUNG", "INTERNAL", "CANCELLED"),
}


@pytest.fixture(scope="module")
def page(
    start_server, demo_repository: Path, samples: Path, truth, tables: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The page of a server with keys, objectives and a comparison, whose callers have asked everything."""
    folder = tmp_path_factory.mktemp("limits")
    for name in _LIMITS:
        for version in ("1", "2"):
            shutil.copytree(demo_repository / name / "1", folder / "models" / name / version)
        (folder / "models" / name / "config.toml").write_text(
            "version_policy = { specific = [1] }\nlatency_objective_ms = 500\n"
        )
    keys = "".join(
        f'[keys.{name}]\nsha256 = ["{digest_of(name).hex()}"]\nroles = ["infer", "read", "admin"]\n' for name in _KEYS
    )
    (folder / "keys.toml").write_text(keys)
    (folder / "keys.toml").chmod(0o600)
    flags = ("--keys-file", str(folder / "keys.toml"), "--admin-on-main", "--cache-dir", str(tables))
    pictures = {entry["model"]: (samples / name).read_bytes() for name, entry in truth.items()}
    with start_server(folder / "models", *flags) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            stub, rule = repository_pb2_grpc.RepositoryStub(channel), "agreement>=0.9 and n>=1000000"
            for name in _LIMITS:
                request = pb.StartComparisonRequest(
                    model=name, version=2, mode=pb.COMPARISON_MODE_SHADOW, share=1.0, promote_if=rule
                )
                stub.StartComparison(request, metadata=[("authorization", f"Bearer {_KEYS[0]}")], timeout=60)
        for key in _KEYS:
            with resonnx.Client(server.grpc, key=key) as client:
                client.classify(pictures["digits"], "digits")
                client.caption(pictures["scenes"], "scenes")
                with pytest.raises(resonnx.ResonnxError):
                    client.classify(b"no picture", "digits")
        with resonnx.Client(server.grpc, key=_KEYS[0]) as client:
            assert None not in list(client.classify_many([pictures["digits"]] * _ROWS, "digits"))
            assert None not in list(client.caption_many([pictures["scenes"]] * _ROWS, "scenes"))
        # Copies are compared while the device is idle.
        deadline, text = time.monotonic() + 60, ""
        while len(re.findall('^resonnx_drift_rows.*version="2".*traffic="comparison"', text, re.M)) < 6:
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
            status, text = server.get("/metrics", key=_KEYS[0])
            assert status == 200
        yield text


def test_series_a_model(page: str) -> None:
    families = read(page, openmetrics=False)
    counts: Counter[tuple[str, str]] = Counter()
    for family in families.values():
        for _, labels in family.samples:
            of = dict(labels)
            if "model" in of:
                counts[of["model"], of.get("version", "1")] += 1
    for (model, version), count in counts.items():
        labels = {("model", model), ("version", version)}
        seen = sum(labels <= set(of) for _, of in families["resonnx_request_errors_total"].samples)
        classes = sum(labels <= set(of) for _, of in families["resonnx_predicted_class_ratio"].samples)
        drift = sum(
            labels <= set(of) for name, family in families.items() if "_drift_" in name for _, of in family.samples
        )
        # Of requests and of comparisons; the version of a shadow has no requests.
        most_of_drift = 2 * _OF_DRIFT[model]
        assert drift in (_OF_DRIFT[model], most_of_drift), (model, version)
        # What did not happen, and classes that the model does not have.
        most = count - seen + len(_REASONS) + (MOST_CLASSES + 1 - classes if model == "digits" else 0)
        most += most_of_drift - drift
        assert count > 100
        assert most <= _LIMITS[model], (model, version)


def test_callers_are_those_of_the_file_of_keys(page: str) -> None:
    callers = set(re.findall(r'caller="([^"]*)"', page))
    assert callers == {"other", "comparison", *(f"key:{name}" for name in _KEYS)} or callers == {
        "other",
        *(f"key:{name}" for name in _KEYS),
    }
    assert "127.0.0.1" not in page
