"""The command line, of models."""

import json

import grpc
import pytest
from resonnx._commands.output import model_lines
from resonnx._messages import model_info
from resonnx_proto.v1 import manifest_pb2, vision_pb2


@pytest.fixture
def two_models(vision) -> None:
    """One model that serves and one that does not."""
    digits = vision_pb2.ModelSummary(
        name="digits",
        version=3,
        labels=["stable"],
        is_default=True,
        task=manifest_pb2.TASK_CLASSIFIER,
        state=vision_pb2.MODEL_STATE_READY,
    )
    scenes = vision_pb2.ModelSummary(
        name="scenes",
        version=1,
        task=manifest_pb2.TASK_CAPTIONER,
        state=vision_pb2.MODEL_STATE_REFUSED,
        reason="damaged",
    )

    def get_model(request, context):
        if request.model != "digits":
            vision.fail(context, grpc.StatusCode.NOT_FOUND, "no model 'nobody'")
        return vision_pb2.GetModelResponse(
            summary=digits,
            manifest={
                "task": "TASK_CLASSIFIER",
                "input": {"width": 32, "height": 24},
                "classifier": {"labels": ["zero", "one"]},
                "source": {"architecture": "resnet18", "layout": "torchvision"},
                "assumptions": [
                    {"name": "stride", "value": "in the 3x3 convolution", "option": "--stride-in-1x1"},
                    {"name": "pool", "value": "max", "option": "--assume pool=...", "alternatives": ["none"]},
                    {"name": "scale", "value": "pixels 0..1", "option": "--scale", "confirmed": True},
                ],
            },
            sessions=[
                {
                    "file": "model.onnx",
                    "provider": "CPUExecutionProvider",
                    "precision": "PRECISION_FP32",
                    "latencies": [{"batch_size": 1, "expected_us": 2100}],
                }
            ],
            inputs=[{"name": "image", "datatype": "UINT8", "shape": [-1, 24, 32, 3], "optional": True}],
            outputs=[{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}],
            identity="ab12",
            verified=True,
            max_batch_size=16,
            max_queue_size=64,
            max_message_bytes=2**26,
            pictures={"formats": ["JPEG", "PNG"], "max_image_pixels": 2**26, "max_image_side": 16_384},
        )

    vision.script["ListModels"] = lambda request, context: vision_pb2.ListModelsResponse(models=[digits, scenes])
    vision.script["GetModel"] = get_model


@pytest.mark.usefixtures("two_models")
def test_models(run) -> None:
    done = run("models")
    assert done.exit_code == 0
    assert done.stdout == (
        "NAME    VERSION  TASK        STATE             PROVIDER              VERIFIED\n"
        "digits  3        classifier  ready             CPUExecutionProvider  yes\n"
        "scenes  1        captioner   refused: damaged  -                     -\n"
    )
    rows = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    assert rows[0] == {
        "labels": ["stable"],
        "is_default": True,
        "name": "digits",
        "version": 3,
        "task": "classifier",
        "state": "ready",
        "reason": "",
        "provider": "CPUExecutionProvider",
        "verified": True,
    }
    assert (rows[1]["provider"], rows[1]["verified"]) == (None, None)


@pytest.mark.usefixtures("two_models")
def test_one_model(run) -> None:
    done = run("models", "digits")
    assert done.exit_code == 0
    assert done.stdout == (
        "name              digits\n"
        "version           3\n"
        "task              classifier\n"
        "state             ready\n"
        "verified          yes\n"
        "verified against  the exporter's reading of the checkpoint\n"
        "assumed           stride in the 3x3 convolution; --stride-in-1x1\n"
        "assumed           pool max; --assume pool=... (or none)\n"
        "given             scale pixels 0..1; --scale\n"
        "identity          ab12\n"
        "limits            batch 16, queue 64, message 64 MiB\n"
        "pictures          JPEG, PNG up to 67 megapixels, EXIF orientation ignored\n"
        "source            resnet18 (torchvision)\n"
        "picture size      24x32 (height x width)\n"
        "labels            2\n"
        "input image       UINT8 [-1, 24, 32, 3], optional\n"
        "output logits     FP32 [-1, 2]\n"
        "model.onnx        CPUExecutionProvider fp32, one at a time, batches 1: 2.1 ms\n"
    )
    shown = json.loads(run("models", "digits", "--json").stdout)
    assert shown["manifest"]["classifier"]["labels"] == ["zero", "one"]
    assert shown["pictures"]["formats"] == ["JPEG", "PNG"]
    assert (shown["verified_against"], [each["confirmed"] for each in shown["assumptions"]]) == (
        "our_reading",
        [False, False, True],
    )
    assert shown["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 24, 32, 3], "optional": True}]
    assert shown["sessions"][0]["latencies"] == [{"batch_size": 1, "expected_s": 0.0021, "spread_s": 0.0}]


def test_a_bare_file_shows_its_inputs_and_outputs(vision, run) -> None:
    vision.script["GetModel"] = lambda request, context: vision_pb2.GetModelResponse(
        summary={"name": "lenet", "version": 1, "task": "TASK_TENSORS", "state": "MODEL_STATE_READY"},
        inputs=[{"name": "data", "datatype": "FP32", "shape": [1, 1, 28, 28]}],
        outputs=[{"name": "prob", "datatype": "FP32", "shape": [1, 10]}],
    )
    lines = run("models", "lenet").stdout.splitlines()
    assert "input data   FP32 [1, 1, 28, 28]" in lines
    assert "output prob  FP32 [1, 10]" in lines
    assert not any(line.startswith("verified against") for line in lines)
    shown = json.loads(run("models", "lenet", "--json").stdout)
    assert (shown["verified_against"], shown["assumptions"]) == (None, [])


@pytest.mark.usefixtures("two_models")
def test_no_such_model(run) -> None:
    done = run("models", "nobody")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "resonnx: no model 'nobody'\n"
    done = run("models", "nobody", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["code"] == "NOT_FOUND"


def test_what_answers_agree_with_is_confirmed() -> None:
    manifest = manifest_pb2.Manifest(
        verified_against=manifest_pb2.REFERENCE_USER_ANSWERS,
        assumptions=[
            {"name": "pool", "value": "max", "option": "--assume pool=VALUE", "confirmed": True},
            {"name": "resizing", "value": "stretch", "option": "--stretch"},
        ],
    )
    rows = "\n".join(model_lines(model_info(vision_pb2.GetModelResponse(manifest=manifest))))
    assert "verified against  the user's answers" in rows
    assert "confirmed         pool max" in rows
    assert "assumed           resizing stretch" in rows


def test_a_source_that_the_server_keeps_to_itself_has_no_row() -> None:
    manifest = manifest_pb2.Manifest(schema_version=3)
    rows = model_lines(model_info(vision_pb2.GetModelResponse(manifest=manifest)))
    assert [row for row in rows if row.startswith("source")] == []
