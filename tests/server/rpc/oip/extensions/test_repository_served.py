"""Models that tritonclient loads and unloads in a real server."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from .... import bare_graphs


@pytest.fixture(scope="module")
def client(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    folder = tmp_path_factory.mktemp("explicit")
    for name, content in {"first": bare_graphs.doubling(), "second": bare_graphs.doubling(), "broken": b""}.items():
        path = folder / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    flags = ("--admin-port", "0", "--control-mode", "explicit", "--load-models", "first")
    with start_server(folder, *flags) as server, triton.InferenceServerClient(server.admin) as admin:
        yield admin


def _infer(client: triton.InferenceServerClient, name: str) -> list[list[float]]:
    given = triton.InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.ones((1, 3), np.float32))
    answer: list[list[float]] = client.infer(name, [given]).as_numpy("y").tolist()
    return answer


def _status(call, *arguments: object, **options: object) -> str:
    with pytest.raises(InferenceServerException) as refused:
        call(*arguments, **options)
    return str(refused.value.status()).removeprefix("StatusCode.")


def _successes(client: triton.InferenceServerClient) -> int:
    (stats,) = client.get_inference_statistics("second").model_stats
    return int(stats.inference_stats.success.count)


def test_models_come_and_go_and_go_on_counting(client) -> None:
    assert "model_repository" in client.get_server_metadata().extensions
    assert (client.is_model_ready("first"), client.is_model_ready("second")) == (True, False)
    for times in (1, 2):
        client.load_model("second")
        assert client.is_model_ready("second")
        assert _infer(client, "second") == [[2, 2, 2]]
        assert _successes(client) == times
        client.unload_model("second")
        assert not client.is_model_ready("second")
        assert _status(_infer, client, "second") in ("NOT_FOUND", "UNAVAILABLE")
        # Counters stay, as those of /metrics do.
        assert _successes(client) == times
    assert _infer(client, "first") == [[2, 2, 2]]


def test_what_cannot_be_loaded(client) -> None:
    assert _status(client.load_model, "other") == "NOT_FOUND"
    assert _status(client.load_model, "../explicit") == "NOT_FOUND"
    assert _status(client.load_model, "broken") == "FAILED_PRECONDITION"
    assert _status(client.unload_model, "other") == "NOT_FOUND"
    assert _status(client.load_model, "first", config="{}") == "INVALID_ARGUMENT"
    files = {"file:1/model.onnx": Path(__file__).read_bytes()}
    assert _status(client.load_model, "first", config="{}", files=files) == "INVALID_ARGUMENT"
    assert _infer(client, "first") == [[2, 2, 2]]
