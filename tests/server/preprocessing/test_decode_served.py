"""A real server, while a request of its lowest priority has as many pictures decoded as it may, for minutes."""

import io
from collections.abc import Iterator

import grpc
import pytest
from PIL import Image
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc


def _file(format: str, width: int, height: int, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 9, 9)).save(file, format, **options)
    return file.getvalue()


def _request(files: list[bytes], priority: int) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="digits")
    request.inputs.add(name="image", datatype="BYTES", shape=[len(files)]).contents.bytes_contents.extend(files)
    request.parameters["priority"].int64_param = priority
    return request


@pytest.fixture
def channel(demo_server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        yield channel


def test_others_are_served_while_a_request_of_many_large_pictures_is_decoded(
    demo_server, channel: grpc.Channel
) -> None:
    """24 megapixels in a kilobyte each: nothing but decoding them costs anything."""
    tensors, vision = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel), vision_pb2_grpc.VisionStub(channel)
    most = vision.GetModel(vision_pb2.GetModelRequest(model="digits"), timeout=20).max_queue_size
    large, small = _file("WEBP", 8192, 2929, lossless=True), _file("PNG", 32, 32)
    attack = tensors.ModelInfer.future(_request([large] * most, 8), timeout=600)
    try:
        while not demo_server.metric("resonnx_decode_queue_pictures"):
            assert not attack.done()
        assert demo_server.metric("resonnx_requests_in_progress", model="digits") == 1
        assert demo_server.metric("nv_inference_pending_request_count", model="digits") == 0, "that is for the device"
        for priority in (1, 8):
            for count in (1, 3):
                assert len(tensors.ModelInfer(_request([small] * count, priority), timeout=60).outputs)
        image = vision_pb2.Image(raw={"rgb": bytes(32 * 32 * 3), "width": 32, "height": 32})
        vision.Classify(vision_pb2.ClassifyRequest(model="digits", image=image), timeout=60)
        raw = oip.ModelInferRequest(model_name="digits")
        raw.inputs.add(name="image", datatype="UINT8", shape=[most // 2, 32, 32, 3])
        raw.raw_input_contents.append(bytes(most // 2 * 32 * 32 * 3))
        tensors.ModelInfer(raw, timeout=60)
        assert not attack.done(), "or nothing of this tells anything"
    finally:
        attack.cancel()
