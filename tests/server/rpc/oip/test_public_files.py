"""ONNX files of public kinds are served as they are, and answer as ONNX Runtime does alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as triton

from ...public_networks import CLASSES, public_network

# By model: network, opset, batch axis.
FILES: dict[str, tuple[str, int, int | str]] = {
    "lenet_7": ("lenet", 7, 1),
    "alexnet_7": ("alexnet", 7, 1),
    "vgg_9": ("vgg", 9, "N"),
    "googlenet_8": ("googlenet", 8, 1),
    "alexnet_12": ("alexnet", 12, "batch"),
    "lenet_17": ("lenet", 17, "N"),
    "vgg_20": ("vgg", 20, 4),
    "googlenet_22": ("googlenet", 22, "N"),
}
EXTERNAL = "vgg_9"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("public")
    for name, network in FILES.items():
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        data = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
        onnx.save_model(public_network(*network), folder / "model.onnx", **(data if name == EXTERNAL else {}))
    assert (repository / EXTERNAL / "1/model.onnx.data").stat().st_size > 10_000
    (repository.parent / "server.toml").write_text("".join(f"[models.{name}]\nmax_batch_size = 3\n" for name in FILES))
    return repository


@pytest.fixture(scope="module")
def server(start_server, repository: Path) -> Iterator[Any]:
    with start_server(repository, "--config", str(repository.parent / "server.toml")) as server:
        yield server


@pytest.mark.parametrize("name", FILES)
def test_it_is_batched_and_answers_as_onnx_runtime_alone(server, repository: Path, name: str) -> None:
    session = onnxruntime.InferenceSession(repository / name / "1/model.onnx", providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    fixed = FILES[name][2]
    step = fixed if isinstance(fixed, int) else 2
    expected = np.concatenate([session.run(["prob"], {"data": x[i : i + step]})[0] for i in range(0, 4, step)])
    assert len({row.argmax() for row in expected}) > 1 or expected.std() > 1e-3
    with triton.InferenceServerClient(server.grpc) as client:
        assert client.get_model_config(name).config.max_batch_size == 3
        assert list(client.get_model_metadata(name).outputs[0].shape) == [-1, CLASSES]
        for rows in (1, 3):
            given = triton.InferInput("data", [rows, *shape], "FP32")
            given.set_data_from_numpy(x[:rows])
            np.testing.assert_allclose(client.infer(name, [given]).as_numpy("prob"), expected[:rows], atol=1e-5)


def test_the_log_says_that_they_are_batched(server) -> None:
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    told = {line["model"]: line["batched"] for line in lines if line["message"] == "serving unverified: no manifest"}
    assert told == dict.fromkeys(FILES, True)
