"""Tensors for tritonclient, and refusals that it raises."""

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def pictures_of(samples: Path, truth: dict[str, dict[str, str]], model: str) -> list[tuple[bytes, dict[str, str]]]:
    return [((samples / name).read_bytes(), entry) for name, entry in truth.items() if entry["model"] == model]


def bytes_input(files: list[bytes]) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    return tensor


def tensor_of(array: np.ndarray, datatype: str, name: str = "image") -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def size_of(client: triton.InferenceServerClient, model: str) -> tuple[int, int]:
    shape = client.get_model_metadata(model).inputs[0].shape
    return int(shape[1]), int(shape[2])


def refused(call, code: str, *parts: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        call()
    assert refused.value.status() == f"StatusCode.{code}"
    for part in parts:
        assert part in refused.value.message(), refused.value.message()
    assert "/" not in refused.value.message().replace("max_batch_size/", ""), "no path of the server"
    assert "Traceback" not in refused.value.message()
