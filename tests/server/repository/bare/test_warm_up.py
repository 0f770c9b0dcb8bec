"""Warm-up requests of a config.pbtxt are run before the model serves; those that are wrong refuse it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from resonnx_server.config import Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.bare import bare_file
from resonnx_server.repository.bare.bare_source import read_bare
from resonnx_server.repository.model_config.settings import settings_of
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.runtime.session import Session

from ... import bare_graphs
from ...onnx_classifier import version

Tensors = dict[str, np.ndarray]


def _x(data: str, datatype: str = "FP32", dims: int = 3) -> str:
    return f'inputs {{ key: "x" value {{ data_type: TYPE_{datatype} dims: {dims} {data} }} }}'


def _load(folder: Path, config: str, content: bytes | None = None) -> None:
    (folder / "m" / "1").mkdir(parents=True, exist_ok=True)
    (folder / "m" / "1" / "model.onnx").write_bytes(content or bare_graphs.doubling())
    (folder / "m" / "config.pbtxt").write_text(config)
    settings = settings_of(folder / "m", "m", Settings(repository=folder))
    assert settings.model_dump_json(), "by which changes are found"
    loading = replace(version(threads=1), settings=settings, folder=ModelFolder("m", 1, folder / "m" / "1"))
    bare_file.load(loading)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Inputs of all runs."""
    found: list[np.ndarray] = []
    run = Session.run

    def noted(session: Session, feeds: Tensors, *more: object) -> Tensors:
        found.append(feeds["x"])
        return run(session, feeds, *more)

    monkeypatch.setattr(Session, "run", noted)
    return found


def test_samples_are_run_with_their_data(tmp_path: Path, runs: list[np.ndarray]) -> None:
    data = np.array([[1, 2, 3], [4, 5, 6]], "<f4")
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "two").write_bytes(data.tobytes())
    (tmp_path / "m" / "warmup" / "one").write_bytes(data[0].tobytes())
    samples = [
        '{ name: "file" batch_size: 2 count: 3 ' + _x("input_data_file: 'two'") + " }",
        '{ name: "row" batch_size: 4 ' + _x("input_data_file: 'one'") + " }",
        '{ name: "random" ' + _x("random_data: true") + " }",
    ]
    _load(tmp_path, f"max_batch_size: 4 model_warmup [ {', '.join(samples)} ]")
    assert sum(np.array_equal(x, data) for x in runs) == 3
    assert sum(np.array_equal(x, np.tile(data[:1], (4, 1))) for x in runs) == 1
    assert runs[-1].shape == (1, 3)
    assert runs[-1].any()


ZEROS = "zero_data: true"


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (f"batch_size: 5 {_x(ZEROS)}", "batch_size is 5; at most 4 is allowed"),
        (f"count: 1001 {_x(ZEROS)}", "count is 1001; at most 1000 is allowed"),
        (_x(""), "input 'x': needs zero_data, random_data or input_data_file"),
        (_x("input_data_file: 'no'"), "there is no file 'warmup/no' in the model's folder"),
        (_x("input_data_file: '../1/model.onnx'"), "'warmup/../1/model.onnx' is not a path inside"),
        (_x("input_data_file: 'short'"), "the file of input 'x' has 5 bytes; [1, 3] has 12"),
        ("", "the input 'x' is missing"),
        (_x(ZEROS) + _x(ZEROS).replace('"x"', '"z"'), "the model has no input 'z'"),
        (_x(ZEROS, "FP16"), "input 'x' is FP16; the model takes FP32"),
        (_x(ZEROS, dims=4), "input 'x' has the dims [4]; the model takes [3]"),
    ],
)
def test_wrong_samples_refuse_the_model(tmp_path: Path, sample: str, reason: str) -> None:
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "short").write_bytes(b"12345")
    with pytest.raises(ModelRefused) as refused:
        _load(tmp_path, f'max_batch_size: 4\nmodel_warmup {{ name: "w" {sample} }}')
    assert refused.value.message.startswith("config.pbtxt, line 2: model_warmup 'w': ")
    assert reason in refused.value.message


def test_a_sample_whose_run_fails_refuses_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Session.run

    def failing(session: Session, feeds: Tensors, *more: object) -> Tensors:
        if len(feeds["x"]) == 2 and not feeds["x"].any():
            raise RuntimeError("no such shape")
        return run(session, feeds, *more)

    monkeypatch.setattr(Session, "run", failing)
    with pytest.raises(ModelRefused, match=r"line 1: model_warmup 'w': its run failed: no such shape"):
        _load(tmp_path, f'max_batch_size: 2 model_warmup {{ name: "w" batch_size: 2 {_x(ZEROS)} }}')


def test_the_file_for_the_gpu_is_read_on_gpus_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resonnx_server.repository.bare.bare_source.compute_capability", lambda: "8.9")
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text('cc_model_filenames [ { key: "8.9" value: "ada.onnx" } ]')
    for file in ("ada.onnx", "model.onnx"):
        (tmp_path / "m" / "1" / file).write_bytes(bare_graphs.doubling())
    folder = ModelFolder("m", 1, tmp_path / "m" / "1")
    read = {}
    for provider in ("cuda", "tensorrt", "cpu", "auto"):
        server = Settings.model_validate({"repository": tmp_path, "provider": provider})
        loading = replace(version(), settings=settings_of(tmp_path / "m", "m", server), folder=folder)
        read[provider] = read_bare(loading).name
    assert read == {"cuda": "ada.onnx", "tensorrt": "ada.onnx", "cpu": "model.onnx", "auto": "model.onnx"}
