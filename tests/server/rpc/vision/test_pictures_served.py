"""Pictures through a real server: what its settings take, tell, and refuse by name, over both protocols."""

import io
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from PIL import Image
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import manifest_pb2, vision_pb2, vision_pb2_grpc

from ...runtime.pictures.picture_files import file, oriented

SETTINGS = """
[server]
formats = ["JPEG", "PNG", "TIFF"]
max_image_pixels = 1000000
max_image_side = 2000

[models.digits]
exif_orientation = "apply"
jpeg_scaling = true
"""
APPLY, IGNORE = (
    manifest_pb2.ImageInput.ExifOrientation.Value(f"EXIF_ORIENTATION_{way}") for way in ("APPLY", "IGNORE")
)


@pytest.fixture(scope="module")
def set_up(start_server, demo_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    config = tmp_path_factory.mktemp("config") / "resonnx.toml"
    config.write_text(SETTINGS)
    with (
        start_server(demo_repository, "--config", str(config)) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        yield channel


@pytest.fixture
def by_default(demo_server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def picture(samples: Path, truth: dict[str, dict[str, str]]) -> Image.Image:
    name = next(name for name, entry in truth.items() if entry["model"] == "digits")
    return Image.open(io.BytesIO((samples / name).read_bytes())).convert("RGB")


def _scores(channel: grpc.Channel, content: bytes) -> list[tuple[str, float]]:
    request = vision_pb2.ClassifyRequest(model="digits", image={"encoded": content})
    answer = vision_pb2_grpc.VisionStub(channel).Classify(request, timeout=60)
    return [(prediction.label, round(prediction.score, 5)) for prediction in answer.predictions]


def _refusals(channel: grpc.Channel, content: bytes) -> list[str]:
    """Return what both protocols say."""
    tensors = oip.ModelInferRequest(model_name="digits")
    tensors.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(content)
    vision = vision_pb2_grpc.VisionStub(channel)
    inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    calls = (
        (vision.Classify, vision_pb2.ClassifyRequest(model="digits", image={"encoded": content})),
        (inference.ModelInfer, tensors),
    )
    messages = []
    for call, request in calls:
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=60)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        messages.append(refused.value.details())
    return messages


def test_get_model_tells_how_pictures_are_read(set_up: grpc.Channel, by_default: grpc.Channel) -> None:
    def told(channel: grpc.Channel, model: str) -> vision_pb2.PictureSettings:
        request = vision_pb2.GetModelRequest(model=model)
        return vision_pb2_grpc.VisionStub(channel).GetModel(request, timeout=20).pictures

    assert told(set_up, "digits") == vision_pb2.PictureSettings(
        exif_orientation=APPLY,
        jpeg_scaling=True,
        formats=["JPEG", "PNG", "TIFF"],
        max_image_pixels=1_000_000,
        max_image_side=2000,
    )
    assert told(set_up, "scenes").exif_orientation == IGNORE
    assert told(by_default, "digits") == vision_pb2.PictureSettings(
        exif_orientation=IGNORE,
        formats=["JPEG", "PNG", "WebP", "BMP", "GIF"],
        max_image_pixels=1 << 26,
        max_image_side=16_384,
    )


def test_the_setting_turns_pictures_upright(
    set_up: grpc.Channel, by_default: grpc.Channel, picture: Image.Image
) -> None:
    upright = file(picture, "PNG")
    # As a camera stores it that was held so: to be turned by a quarter.
    held = oriented(6, picture.transpose(Image.Transpose.ROTATE_90), "PNG")
    assert _scores(set_up, held) == _scores(set_up, upright)
    # Two servers may serve with different providers.
    by_two = zip(_scores(set_up, upright), _scores(by_default, upright), strict=True)
    assert all(one[1] == pytest.approx(other[1], abs=0.002) for one, other in by_two)
    assert _scores(by_default, held) != _scores(by_default, upright)


def test_formats_and_limits_are_the_settings(
    set_up: grpc.Channel, by_default: grpc.Channel, picture: Image.Image
) -> None:
    assert _scores(set_up, file(picture, "TIFF")) == _scores(set_up, file(picture, "PNG"))
    assert _scores(by_default, file(picture, "BMP")) == _scores(by_default, file(picture, "PNG"))
    for message in _refusals(set_up, file(picture, "BMP")):
        assert "a BMP picture, which the server's `formats` do not allow: JPEG, PNG and TIFF" in message
    for message in _refusals(by_default, file(picture, "TIFF")):
        assert "a TIFF picture, which the server's `formats` do not allow: JPEG, PNG, WebP, BMP and GIF" in message
    for message in _refusals(set_up, file(Image.new("L", (1001, 1000)), "PNG")):
        assert "1001x1000 is 1001000 pixels, more than 1000000" in message
    for message in _refusals(set_up, file(Image.new("L", (2001, 1)), "PNG")):
        assert "a side must be within 1..2000" in message


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "an empty file"),
        (b"<html><body>Not Found</body></html>", "an HTML page"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(60), "a HEIC picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_the_refusal_names_what_arrived(by_default: grpc.Channel, content: bytes, name: str) -> None:
    vision, tensors = _refusals(by_default, content)
    assert vision.startswith(f"image.encoded: {name}")
    assert f"{name}" in tensors


def test_a_photograph_of_a_present_phone_is_answered(by_default: grpc.Channel) -> None:
    large = Image.effect_noise((56, 42), 90).convert("RGB").resize((5712, 4284))
    assert _scores(by_default, file(large, "JPEG", quality=80))
