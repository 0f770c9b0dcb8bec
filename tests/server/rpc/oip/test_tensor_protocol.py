"""The tensor protocol by an unchanged tritonclient, against a real server of the demo models."""

import io
import queue
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from .tensors import bytes_input, pictures_of, size_of, tensor_of


@pytest.fixture(scope="module")
def client(demo_server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(demo_server.grpc) as client:
        yield client


def test_live_ready_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert not client.is_model_ready("unknown")
    assert client.get_server_metadata().name == "resonnx"
    metadata = client.get_model_metadata("digits")
    assert [(t.name, t.datatype) for t in metadata.inputs] == [("image", "UINT8"), ("encoded_image", "BYTES")]
    assert [t.name for t in metadata.outputs] == ["probabilities", "logits", "features"]
    assert list(metadata.outputs[0].shape) == [-1, 10]


def test_config(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("digits").config
    height, width = size_of(client, "digits")
    assert config.max_batch_size == 16
    assert list(config.input[0].dims) == [height, width, 3]
    assert list(config.output[0].dims) == [10]
    assert not config.model_transaction_policy.decoupled
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.parameters["verified"].string_value == "true"
    assert config.parameters["verified_against"].string_value == "our_reading"
    assert "assumptions" in config.parameters


def test_digits_by_files_and_by_pixels(client, samples, truth) -> None:
    pictures = pictures_of(samples, truth, "digits")
    by_file = client.infer("digits", [bytes_input([file for file, _ in pictures])])
    height, width = size_of(client, "digits")
    resized = [
        np.asarray(Image.open(io.BytesIO(file)).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        for file, _ in pictures
    ]
    by_pixels = client.infer("digits", [tensor_of(np.stack(resized), "UINT8")])
    np.testing.assert_allclose(by_file.as_numpy("logits"), by_pixels.as_numpy("logits"), rtol=1e-4, atol=1e-4)
    classified = client.infer(
        "digits",
        [bytes_input([file for file, _ in pictures])],
        outputs=[triton.InferRequestedOutput("probabilities", class_count=2)],
    ).as_numpy("probabilities")
    assert classified.shape == (len(pictures), 2)
    labels = [row[0].decode().split(":")[2] for row in classified]
    right = sum(label == entry["label"] for label, (_, entry) in zip(labels, pictures, strict=True))
    assert right >= len(pictures) - 1


def test_scenes_by_files_and_by_pixels(client, samples, truth) -> None:
    pictures = pictures_of(samples, truth, "scenes")
    answer = client.infer("scenes", [bytes_input([file for file, _ in pictures])])
    captions = [caption.decode() for (caption,) in answer.as_numpy("caption")]
    assert answer.as_numpy("log_prob").shape == (len(pictures), 1)
    right = sum(caption == entry["caption"] for caption, (_, entry) in zip(captions, pictures, strict=True))
    assert right >= len(pictures) - 2
    height, width = size_of(client, "scenes")
    pixels = np.zeros((3, height, width, 3), np.uint8)
    assert client.infer("scenes", [tensor_of(pixels, "UINT8")]).as_numpy("caption").shape == (3, 1)


def test_more_rows_than_a_batch_are_split_and_joined(client) -> None:
    height, width = size_of(client, "digits")
    pixels = np.random.default_rng(1).integers(0, 256, (45, height, width, 3), dtype=np.uint8)
    together = client.infer("digits", [tensor_of(pixels, "UINT8")]).as_numpy("logits")
    singly = [client.infer("digits", [tensor_of(pixels[i : i + 1], "UINT8")]).as_numpy("logits")[0] for i in range(45)]
    assert np.abs(together - np.stack(singly)).max() <= 1e-4 * np.abs(together).max()


def test_requested_outputs_id_and_version(client, samples, truth) -> None:
    file = pictures_of(samples, truth, "digits")[0][0]
    result = client.infer(
        "digits",
        [bytes_input([file])],
        model_version="1",
        request_id="r-1",
        outputs=[triton.InferRequestedOutput("features"), triton.InferRequestedOutput("logits")],
    )
    response = result.get_response()
    assert (response.id, response.model_version) == ("r-1", "1")
    assert [output.name for output in response.outputs] == ["features", "logits"]
    assert len(response.raw_output_contents) == 2


def test_stream(client, samples, truth) -> None:
    pictures = pictures_of(samples, truth, "digits")
    answers: queue.Queue[tuple[object, object]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for i, (file, _) in enumerate(pictures):
        client.async_stream_infer("digits", [bytes_input([file])], request_id=str(i))
    client.async_stream_infer("digits", [bytes_input([b"broken"])], request_id="bad")
    seen, errors = {}, []
    for _ in range(len(pictures) + 1):
        result, error = answers.get(timeout=30)
        if error is not None:
            errors.append(str(error))
        else:
            seen[result.get_response().id] = result.as_numpy("probabilities")
    client.stop_stream()
    assert set(seen) == {str(i) for i in range(len(pictures))}
    assert len(errors) == 1
    assert "plain text that begins" in errors[0]


def test_statistics_without_a_name_are_those_of_all_models(client) -> None:
    stats = client.get_inference_statistics().model_stats
    assert {model.name for model in stats} >= {"digits", "scenes"}


def test_statistics_count(client, samples, truth) -> None:
    def counts() -> tuple[int, int]:
        stats = client.get_inference_statistics("digits").model_stats[0]
        return stats.inference_count, stats.inference_stats.success.count

    before = counts()
    client.infer("digits", [bytes_input([f for f, _ in pictures_of(samples, truth, "digits")[:3]])])
    after = counts()
    assert (after[0] - before[0], after[1] - before[1]) == (3, 1)


def test_repository_index(client) -> None:
    models = client.get_model_repository_index().models
    assert [(m.name, m.version, m.state) for m in models] == [("digits", "1", "READY"), ("scenes", "1", "READY")]


def test_typed_contents_are_taken(demo_server, client) -> None:
    height, width = size_of(client, "digits")
    values = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    request = pb.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=values.shape)
    tensor.contents.uint_contents.extend(values.ravel().tolist())
    with grpc.insecure_channel(demo_server.grpc) as channel:
        response = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    logits = np.frombuffer(response.raw_output_contents[1], np.float32)
    expected = client.infer("digits", [tensor_of(values, "UINT8")]).as_numpy("logits")[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_outputs_are_given_once(demo_server) -> None:
    request = pb.ModelInferRequest(model_name="digits", outputs=[{"name": "features"}] * 1025)
    with grpc.insecure_channel(demo_server.grpc) as channel:
        infer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        with pytest.raises(grpc.RpcError, match="1025 are given, more than 1024"):
            infer(request, timeout=10)
        del request.outputs[4:]
        with pytest.raises(grpc.RpcError, match="4 are requested; the model has 3"):
            infer(request, timeout=10)
        del request.outputs[2:]
        with pytest.raises(grpc.RpcError, match="'features' is requested twice"):
            infer(request, timeout=10)
