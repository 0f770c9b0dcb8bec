"""`check`: what the server would serve and refuse, without serving."""

from pathlib import Path

import pytest
from resonnx_server.checking.command import check
from resonnx_server.config_sources import load_settings

from .. import bare_graphs

CONFIG = """\
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 label_filename: "labels.txt" }
dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 10 }
"""


def _model(repository: Path, name: str, config: str | None = None, versions: tuple[int, ...] = (1,)) -> Path:
    for version in versions:
        (repository / name / str(version)).mkdir(parents=True)
        (repository / name / str(version) / "model.onnx").write_bytes(bare_graphs.doubling())
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def _checked(repository: Path, capsys: pytest.CaptureFixture[str], **flags: str) -> tuple[int, list[str]]:
    status = check(load_settings({"repository": str(repository), **flags}, {}))
    return status, capsys.readouterr().out.splitlines()


def test_what_would_be_served_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _model(tmp_path, "plain")
    folder = _model(tmp_path, "triton", CONFIG + "version_policy { specific { versions: [1, 3] } }", (1, 2, 3))
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "config.toml").write_text("max_queue_size = 7\n")
    status, lines = _checked(tmp_path, capsys)
    good = "ok  tensors  no manifest.json, so not verified; requests share batches"
    assert (status, lines) == (
        0,
        [
            "model   version      task",
            f"plain   1        {good}",
            f"triton  1        {good}",
            f"triton  3        {good}",
            "",
            "triton",
            "  taken    config.pbtxt: max_batch_size = 4",
            "  taken    config.pbtxt: version_policy = specific: [1, 3]",
            "  taken    config.pbtxt: max_queue_delay_us = 10",
            "  taken    config.pbtxt: priority_levels = 0",
            "  taken    config.toml: max_queue_size = 7",
            "  taken    config.pbtxt, line 2: input x, FP32, [3]",
            "  taken    config.pbtxt, line 3: output y, FP32, [3], 2 labels of labels.txt",
            "  ignored  config.pbtxt, line 4: dynamic_batching.preferred_batch_size has no effect: batch sizes are "
            "chosen by their measured times",
            "",
            "3 would be served, 0 refused",
        ],
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('backend: "python"', "refused  -        config.pbtxt, line 1: backend 'python' is not supported"),
        (
            CONFIG.replace("dims: 3 }", "dims: 4 }"),
            "line 2: input 'x' has the dims [4] after the batch axis; in the graph",
        ),
        (CONFIG.replace('"x"', '"z"'), "line 2: the graph has no input 'z'; it has 'x'"),
        (CONFIG.replace('"y"', '"z"'), "line 3: the graph has no output 'z'; it has 'y'"),
        (CONFIG.replace("FP32", "FP16"), "line 2: input 'x' is FP16; in the graph it is FP32"),
        (
            "version_policy { specific { versions: 2 } }",
            "version_policy 'specific: [2]' chooses none of the versions [1]",
        ),
        ('default_model_filename: "other.onnx"', "holds neither a manifest.json nor a other.onnx"),
    ],
)
def test_what_would_be_refused_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, reason: str
) -> None:
    (_model(tmp_path, "bad", config) / "labels.txt").write_text("a\n")
    _model(tmp_path, "good")
    status, lines = _checked(tmp_path, capsys)
    assert status == 1
    (line,) = (line for line in lines if line.startswith("bad "))
    assert reason in line
    assert lines[-1] == "1 would be served, 1 refused"


def test_a_folder_without_versions_a_missing_model_and_an_empty_repository_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _checked(tmp_path, capsys) == (1, ["model  version    task", "", "0 would be served, 0 refused"])
    (tmp_path / "empty").mkdir()
    file = tmp_path / "server.toml"
    file.write_text("[models.other]\nmax_batch_size = 2\n")
    status, lines = _checked(tmp_path, capsys, config=str(file))
    assert status == 1
    assert "the model's folder has no version folder (a number, 1 or more) that can be read" in lines[1]
    assert "[models.other] of the server's file is for a model that is not there" in lines


def test_keys_and_the_repository_itself_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = _checked(tmp_path / "none", capsys)
    assert (status, lines) == (1, [f"resonnx-server: repository {str(tmp_path / 'none')!r}: No such file or directory"])
    status, lines = _checked(tmp_path, capsys, keys_file=str(tmp_path / "keys.toml"))
    assert status == 1
    assert "keys.toml" in lines[0]


def test_a_verified_model_agrees_with_its_examples_and_its_config_pbtxt(
    demo_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest decides: a config.pbtxt that contradicts it refuses the model."""
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "1").symlink_to(demo_repository / "digits" / "1")
    taken = 'input { name: "image" data_type: TYPE_UINT8 format: FORMAT_NHWC dims: [32, 32, 3] }'
    outcomes = {
        taken: "ok  classify  golden examples agree on CPUExecutionProvider/fp32",
        'input { name: "image" data_type: TYPE_FP32 dims: [3, 32, 32] }': "input 'image' is FP32; by manifest.json",
        'input { name: "image" data_type: TYPE_UINT8 dims: [32, 32] }': "has the dims [32, 32]; by manifest.json",
        'input { name: "data" data_type: TYPE_UINT8 dims: 1 }': "has no input 'data'; it has encoded_image, image",
        'output { name: "logits" data_type: TYPE_FP32 dims: 10 label_filename: "l" }': "are not those of mani",
        taken.replace("NHWC", "NCHW"): "input 'image' is FORMAT_NCHW; by manifest.json it is FORMAT_NHWC",
        'cc_model_filenames { key: "7.5" value: "t4.onnx" }': "has 't4.onnx'; manifest.json says 'model.onnx'",
        'default_model_filename: "other.onnx"': "is 'other.onnx'; manifest.json says 'model.onnx', which is served",
    }
    (folder / "l").write_text("a\nb\n")
    for config, outcome in outcomes.items():
        (folder / "config.pbtxt").write_text(config)
        status, lines = _checked(tmp_path, capsys, provider="cpu")
        assert status == int(config != taken)
        assert outcome in lines[1]
