"""What is taken from a config.pbtxt, what is ignored with a warning, and what refuses the model."""

from pathlib import Path

import pytest
from resonnx_server.config import ModelSettings, Settings
from resonnx_server.errors import ModelRefused
from resonnx_server.repository.model_config.settings import settings_of, sourced_settings

from .declared import X, declared_by, settings_in, write_pbtxt

# A vision model's, as they are published: comments, lists of messages, one value in place of a list.
RESNET = """\
name: "resnet18"   # the folder's name
platform: "onnxruntime_onnx"
max_batch_size: 32
input [
  {
    name: "input.1"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, 224 ]
  }
]
output [
  {
    name: "output"
    data_type: TYPE_FP32
    dims: [ 1000 ]
    label_filename: "labels.txt"
  }
]
instance_group [
  {
    count: 1
    kind: KIND_GPU
    gpus: [ 0 ]
  }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8, 16, 32 ]
  max_queue_delay_microseconds: 100
}
"""
# Without a batch axis, which `reshape` adds.
DENSENET = """\
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 0
input [ { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ]
          reshape { shape: [ 1, 3, 224, 224 ] } } ]
output [ { name: "fc6_1" data_type: TYPE_FP32 dims: [ 1000 ] reshape { shape: [ 1, 1000, 1, 1 ] } } ]
version_policy: { specific { versions: 1 } }
"""


def test_a_published_configuration_is_taken(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, RESNET, "resnet18")
    assert (settings.max_batch_size, settings.max_queue_delay_us, settings.version_policy) == (32, 100, "latest: 1")
    declared = declared_by(settings)
    (pixels,), (classes,) = declared.inputs, declared.outputs
    assert (pixels.name, pixels.datatype, pixels.dims, pixels.layout) == ("input.1", "FP32", (3, 224, 224), "NCHW")
    assert (classes.name, classes.dims, classes.label_file) == ("output", (1000,), "labels.txt")
    assert classes.labels == ("tench", "goldfish", "", "hammerhead")
    assert declared.ignored == (
        "config.pbtxt, line 24: instance_group.gpus has no effect: the first GPU is used",
        "config.pbtxt, line 28: dynamic_batching.preferred_batch_size has no effect: batch sizes are chosen by their "
        "measured times",
        "config.pbtxt, line 21: instance_group of KIND_GPU has no effect: no GPU is used here",
    )


def test_a_configuration_without_batches_has_its_own_shapes(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, DENSENET, "densenet_onnx")
    assert (settings.max_batch_size, settings.version_policy) == (0, "specific: [1]")
    (data,), (classes,) = declared_by(settings).inputs, declared_by(settings).outputs
    assert (data.dims, data.reshape) == ((3, 224, 224), (1, 3, 224, 224))
    assert (classes.dims, classes.reshape) == ((1000,), (1, 1000, 1, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"max_batch_size": 16, "version_policy": "latest: 1", "max_instances": None}),
        # As in Triton: what is not given is completed from the graph.
        ('input { name: "x" data_type: TYPE_FP32 dims: 3 }', {"max_batch_size": 16}),
        ("version_policy { latest { num_versions: 2 } }", {"version_policy": "latest: 2"}),
        ("version_policy { all { } }", {"version_policy": "all"}),
        ("version_policy { specific { versions: [3, 1] } }", {"version_policy": "specific: [1, 3]"}),
        ("instance_group { count: 2 kind: KIND_CPU }", {"max_instances": 2}),
        ("instance_group [ { count: 2 }, { kind: KIND_CPU }, { count: 9 kind: KIND_GPU } ]", {"max_instances": 3}),
        ("max_batch_size: 1024", {"max_batch_size": 64}),
        ('backend: "onnxruntime" dynamic_batching { }', {"max_queue_delay_us": 0}),
    ],
)
def test_settings_are_taken(tmp_path: Path, text: str, expected: dict[str, object]) -> None:
    settings = settings_in(tmp_path, text)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "max_batch_size: 1024",
            "line 1: max_batch_size 1024 is more than 64, the largest batch that is run",
        ),
        (
            'optimization { execution_accelerators {\n gpu_execution_accelerator : [ { name : "tensorrt"\n'
            ' parameters { key: "precision_mode" value: "FP16" } } ] } graph { level: 1 } }',
            "line 1: optimization has no effect: ONNX Runtime optimises graphs",
        ),
        (
            '\nparameters { key: "intra_op_thread_count" value: { string_value: "4" } }',
            "line 2: parameters['intra_op_thread_count'] has no effect: it is of Triton's",
        ),
        ("response_cache { enable: true }", "line 1: response_cache has no effect: answers are not cached"),
        ("model_metrics { metric_control: [ { } ] }", "line 1: model_metrics has no effect"),
        ("metric_tags { key: 'a' value: 'b' }", "line 1: metric_tags has no effect"),
        ("instance_group { rate_limiter { priority: 2 } }", "line 1: instance_group.rate_limiter has no effect"),
        ("dynamic_batching { preserve_ordering: true }", "line 1: dynamic_batching.preserve_ordering has no effect"),
    ],
)
def test_what_has_no_effect_is_told_with_its_line(tmp_path: Path, text: str, warning: str) -> None:
    ignored = declared_by(settings_in(tmp_path, text)).ignored
    assert [each for each in ignored if each.startswith(f"config.pbtxt, {warning}")], ignored
    assert not declared_by(settings_in(tmp_path, "response_cache { enable: false }")).ignored


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name: "other"', "line 1: name is 'other', and the folder 'm': they must be equal"),
        ('backend: "python"', "line 1: backend 'python' is not supported: onnxruntime is"),
        ('\nplatform: "tensorrt_plan"', "line 2: platform 'tensorrt_plan' is not supported: onnxruntime_onnx is"),
        ('platform: "ensemble"', "line 1: platform 'ensemble' is not supported"),
        (
            'ensemble_scheduling { step [ { model_name: "a" model_version: -1 } ] }',
            "line 1: ensemble_scheduling is not supported: there are no ensembles; call the models one after the other",
        ),
        ("sequence_batching { direct { } }", "line 1: sequence_batching is not supported: models have no state"),
        ('model_operations { op_library_filename: "ops.so" }', "line 1: model_operations is not supported: libraries"),
        (
            "model_transaction_policy { decoupled: True }",
            "line 1: model_transaction_policy: decoupled is not",
        ),
        ("batch_input [ { kind: BATCH_ELEMENT_COUNT } ]", "line 1: batch_input is not supported"),
        ("model_repository_agents { agents [ { name: 'checksum' } ] }", "line 1: model_repository_agents is not supp"),
        ('runtime: "model.py"', "line 1: runtime 'model.py' is not supported: ONNX Runtime's is"),
        ("\n\ndynamic_batchin { }", "line 3: there is no field dynamic_batchin; did you mean dynamic_batching?"),
        (
            "dynamic_batching { max_delay: 1 }",
            "line 1: there is no field dynamic_batching.max_delay; there are ",
        ),
        ("max_batch_size: -1", "line 1: max_batch_size is -1; it must be 0 (no batches) or more"),
        ("max_batch_size: x", "line 1: Couldn't parse integer: x (the line is: max_batch_size: x)"),
        ("input [ {\n  dims: 3 } ", 'line 2: Expected ",". (the line is: dims: 3 })'),
        ("name: 'm' name: 'm'", 'line 1: Message type "inference.ModelConfig" should not have multiple "name" fields'),
        ("dynamic_batching { max_queue_delay_microseconds: 1000001 }", "is 1000001; at most 1000000 (1 s) is allowed"),
        ("version_policy { latest { num_versions: 0 } }", "line 1: version_policy: latest needs num_versions of 1 or"),
        ("version_policy { specific { } }", "line 1: version_policy: specific needs versions of 1 or more; it has []"),
        ("version_policy { specific { versions: [0, 2] } }", "specific needs versions of 1 or more; it has [0, 2]"),
        ("instance_group { count: -1 }", "line 1: instance_group has the count -1"),
        ("input { data_type: TYPE_FP32 dims: 3 }", "line 1: an input has no name"),
        ('input { name: "x" dims: 3 }', "line 1: input 'x' has no data_type"),
        (f"input {{ {X} }}", "line 1: input 'x' has no dims"),
        (f"output [ {{ {X} dims: 3 }},\n {{ {X} dims: 3 }} ]", "line 2: output 'x' is given twice"),
        (f"input {{ {X} dims: [0] }}", "input 'x': dims has the size 0; sizes are 1 to 2147483647, or -1 for any"),
        (f"input {{ {X} dims: {[1] * 9} }}", "input 'x': dims has 9 axes; 8 are served"),
        (
            f"input {{ {X} dims: [4, -1] reshape {{ shape: [2, -1] }} }}",
            "input 'x': reshape [2, -1] does not hold as many elements as dims [4, -1]",
        ),
        (
            f"max_batch_size: 8 input {{ {X} format: FORMAT_NHWC dims: [4, 4] }}",
            "input 'x' has the format FORMAT_NHWC, which needs 3 dims beside the batch axis; it has [4, 4]",
        ),
        (
            f"max_batch_size: 8 input {{ {X} optional: true dims: 4 }}",
            "input 'x' is optional, which needs max_batch_size 0",
        ),
        (f"input {{ {X} dims: 4 allow_ragged_batch: true }}", "input 'x': allow_ragged_batch is not supported"),
        (f"input {{ {X} dims: 4 is_shape_tensor: true }}", "input 'x': is_shape_tensor is not supported"),
        (
            f"\noutput {{ {X} dims: 4 label_filename: 'none.txt' }}",
            "line 2: label_filename of output 'x': there is no file 'none.txt' in the model's folder",
        ),
        (
            f"output {{ {X} dims: 4 label_filename: '../labels.txt' }}",
            "label_filename of output 'x': '../labels.txt' is not a path inside the",
        ),
        ("default_model_filename: '../model.onnx'", "default_model_filename: '../model.onnx' is not a name of a file"),
    ],
)
def test_what_cannot_be_served_refuses_the_model(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        settings_in(tmp_path, text)
    assert refused.value.message.startswith("config.pbtxt, line ")
    assert reason in refused.value.message


def test_messages_nested_deeply_do_no_harm(tmp_path: Path) -> None:
    for text in ("optimization {" * 10_000, "input {" * 30_000 + "}" * 30_000, "a:" + "[" * 100_000):
        with pytest.raises(ModelRefused, match=r"nested too deeply|no field input\.input|no field named"):
            settings_in(tmp_path, text)


def test_a_file_that_cannot_be_read_refuses_the_model(tmp_path: Path) -> None:
    folder = write_pbtxt(tmp_path, "")
    (folder / "config.pbtxt").write_bytes(b'name: "\xff"')
    with pytest.raises(ModelRefused, match=r"config\.pbtxt is not UTF-8: byte 7"):
        settings_of(folder, "m", Settings(repository=tmp_path))
    (folder / "config.pbtxt").write_text("#" * (1 << 18) + "\n")
    with pytest.raises(ModelRefused, match=r"config\.pbtxt has 262145 bytes; 262144 are allowed"):
        settings_of(folder, "m", Settings(repository=tmp_path))
    (folder / "config.pbtxt").unlink()
    (folder / "config.pbtxt").mkdir()
    with pytest.raises(ModelRefused, match=r"config\.pbtxt is a folder, not a regular file"):
        settings_of(folder, "m", Settings(repository=tmp_path))


def test_config_toml_goes_before_config_pbtxt_and_the_servers_file_before_both(tmp_path: Path) -> None:
    folder = write_pbtxt(
        tmp_path,
        "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 100 } version_policy { all { } }",
    )
    (folder / "config.toml").write_text("max_batch_size = 4\nmax_queue_delay_us = 50\n")
    server = Settings(repository=tmp_path, models={"m": ModelSettings(max_batch_size=2)})
    found = sourced_settings(folder, "m", server)
    settings = found.settings
    assert (settings.max_batch_size, settings.max_queue_delay_us, settings.version_policy) == (2, 50, "all")
    assert found.sources == {
        "max_batch_size": "[models.m]",
        "max_queue_delay_us": "config.toml",
        "version_policy": "config.pbtxt",
        "priority_levels": "config.pbtxt",
        "provider": "the server's provider",
    }


def test_a_group_on_gpus_takes_the_gpu_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resonnx_server.repository.model_config.triton.batching.has_gpu", lambda: True)
    folder = write_pbtxt(tmp_path, "instance_group { count: 1 kind: KIND_GPU }")
    settings = settings_of(folder, "m", Settings(repository=tmp_path))
    assert (settings.provider, settings.max_instances, declared_by(settings).ignored) == ("cuda", 1, ())
    # Unless somebody has named another device.
    assert settings_of(folder, "m", Settings(repository=tmp_path, provider="cpu")).provider == "cpu"
    (folder / "config.toml").write_text('provider = "openvino"')
    assert settings_of(folder, "m", Settings(repository=tmp_path)).provider == "openvino"


@pytest.mark.parametrize(("size", "other", "told"), [(0, 4, "its dims hold"), (4, 0, "1 is no batches as well")])
def test_another_file_cannot_move_the_batch_axis(tmp_path: Path, size: int, other: int, told: str) -> None:
    tensors = " ".join(f"{kind} {{ {X} dims: 3 }}" for kind in ("input", "output"))
    folder = write_pbtxt(tmp_path, f"max_batch_size: {size} {tensors}")
    (folder / "config.toml").write_text(f"max_batch_size = {other}")
    with pytest.raises(
        ModelRefused, match=rf"config\.toml: max_batch_size is {other}, and config\.pbtxt says {size}: .*{told}"
    ):
        settings_of(folder, "m", Settings(repository=tmp_path))
    (folder / "config.toml").write_text(f"max_batch_size = {size * 2}")
    assert settings_of(folder, "m", Settings(repository=tmp_path)).max_batch_size == size * 2
    # Where it declares no shapes, any size may be given.
    (folder / "config.pbtxt").write_text(f"max_batch_size: {size}")
    (folder / "config.toml").write_text(f"max_batch_size = {other}")
    assert settings_of(folder, "m", Settings(repository=tmp_path)).max_batch_size == other


def test_a_declaration_is_no_setting_of_other_files(tmp_path: Path) -> None:
    folder = write_pbtxt(tmp_path, "")
    (folder / "config.toml").write_text("declaration = {}\n")
    with pytest.raises(ModelRefused, match=r"line 1: setting declaration: there is no such setting; there are "):
        settings_of(folder, "m", Settings(repository=tmp_path))


def test_a_config_pbtxt_is_refused_where_versions_must_be_signed(tmp_path: Path) -> None:
    folder = write_pbtxt(tmp_path, "max_batch_size: 8")
    with pytest.raises(ModelRefused, match=r"config\.pbtxt in the model's folder is not signed"):
        settings_of(folder, "m", Settings(repository=tmp_path, trusted_keys=(tmp_path / "key.pem",)))
