"""What callers may ask of a captioner, through both protocols of a real server."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as tritonclient
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from resonnx_server.captioning.request import CaptionerInfo
from resonnx_server.errors import InvalidInput, ModelRefused
from resonnx_server.protocol.decode_options import decode_options
from resonnx_server.runtime.model_files.manifest import parse_manifest, validate_manifest

from ... import language
from ...waiting import until

Truth = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def channel(demo_server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def vision(channel: grpc.Channel) -> vision_pb2_grpc.VisionStub:
    return vision_pb2_grpc.VisionStub(channel)


@pytest.fixture(scope="module")
def picture(samples: Path, truth: Truth) -> bytes:
    name = next(name for name, entry in truth.items() if entry["model"] == "scenes")
    return (samples / name).read_bytes()


@pytest.fixture(scope="module")
def spec(demo_repository: Path):
    return parse_manifest((demo_repository / "scenes" / "1" / "manifest.json").read_bytes()).captioner


@pytest.fixture(scope="module")
def ask(vision, picture: bytes):
    def ask(**fields: object) -> vision_pb2.CaptionResponse:
        return vision.Caption(_request(picture, **fields), timeout=30)

    return ask


def _request(picture: bytes, **fields: object) -> vision_pb2.CaptionRequest:
    return vision_pb2.CaptionRequest(model="scenes", image=vision_pb2.Image(encoded=picture), **fields)


def test_beams_are_ranked_and_no_worse_than_greedy(ask) -> None:
    greedy = ask(beam_width=1).captions[0]
    for rule in ("NONE", "LENGTH", "GNMT"):
        captions = ask(beam_width=5, num_captions=5, length_normalization=f"LENGTH_NORMALIZATION_{rule}").captions
        assert 1 <= len(captions) <= 5
        assert [c.score for c in captions] == sorted((c.score for c in captions), reverse=True)
        assert len({c.text for c in captions}) == len(captions)
        if rule == "NONE":
            assert captions[0].score == pytest.approx(captions[0].log_prob, abs=1e-4)
            assert captions[0].log_prob >= greedy.log_prob - 1e-4
        else:
            assert captions[0].score > captions[0].log_prob


def test_sampling_tells_its_seed_and_repeats_itself(ask) -> None:
    first = ask(temperature=3.0)
    assert ask(temperature=3.0, seed=first.seed).captions == first.captions
    assert len({ask(temperature=3.0, seed=seed).captions[0].text for seed in range(8)}) > 1
    nearly_greedy = ask(temperature=3.0, top_k=1, seed=1)
    assert nearly_greedy.captions[0].text == ask().captions[0].text
    assert ask(temperature=3.0, top_p=1e-6, seed=1).captions[0].text == ask().captions[0].text
    assert not ask().HasField("seed")


def test_lengths_prefix_and_forbidden_words(ask, spec) -> None:
    plain = ask().captions[0]
    word = plain.words[1].text
    assert word not in ask(forbidden_words=[word]).captions[0].text.split()
    forced = next(w for i, w in enumerate(spec.vocabulary) if i not in spec.stripped_ids and i != spec.end_id)
    assert ask(prefix=[forced, forced]).captions[0].text.split()[:2] == [forced, forced]
    assert len(ask(min_tokens=9, max_tokens=9).captions[0].words) >= 8
    assert len(ask(max_tokens=2).captions[0].words) == 2


def test_attention_covers_the_picture(ask, spec) -> None:
    for width in (1, 3):
        response = ask(return_attention=True, beam_width=width)
        assert (response.attention_rows, response.attention_columns) == (spec.attention_rows, spec.attention_columns)
        for word in response.captions[0].words:
            assert len(word.attention) == response.attention_rows * response.attention_columns
            assert sum(word.attention) == pytest.approx(1, abs=1e-3)
    assert not ask().captions[0].words[0].attention


@pytest.mark.parametrize("fields", [{}, {"beam_width": 4, "num_captions": 2}, {"temperature": 2.0, "seed": 5}])
def test_streamed_words_are_the_best_captions(vision, picture: bytes, fields: dict[str, object]) -> None:
    *words, last = vision.StreamCaption(_request(picture, return_attention=True, **fields), timeout=30)
    assert [event.word for event in words] == list(last.final.captions[0].words)
    assert len(last.final.captions) == fields.get("num_captions", 1)


def test_company_changes_no_caption(vision, samples: Path, truth: Truth, spec) -> None:
    pictures = [(samples / name).read_bytes() for name, entry in truth.items() if entry["model"] == "scenes"]
    wishes = [
        {},
        {"beam_width": 3, "num_captions": 3},
        {"beam_width": 10, "length_normalization": 2},
        {"temperature": 1.5, "seed": 4},
        {"temperature": 1.5, "seed": 5, "top_k": 5},
        {"min_tokens": 12},
        {"max_tokens": 3},
    ]
    requests = [_request(picture, **wish) for picture in pictures for wish in wishes]
    alone = [vision.Caption(request, timeout=30).captions for request in requests]
    together = [vision.Caption.future(request, timeout=60) for request in requests]
    for mine, other in zip(alone, together, strict=True):
        assert [caption.text for caption in mine] == [caption.text for caption in other.result().captions]


async def test_a_caller_who_leaves_is_forgotten(vision, picture: bytes, demo_server, spec) -> None:
    def cancelled() -> float:
        return demo_server.metric("nv_inference_request_failure", model="scenes", reason="CANCELED")

    longest = {"min_tokens": spec.max_tokens, "max_tokens": spec.max_tokens}
    before, left = cancelled(), 0
    # A caption may end before the server hears that nobody wants it.
    while left < 20 or cancelled() == before:
        assert left < 2000, "no caption was cancelled"
        stream = vision.StreamCaption(_request(picture, **longest), timeout=30)
        next(stream)
        stream.cancel()
        left += 1
    await until(lambda: demo_server.metric("resonnx_requests_in_progress", model="scenes") == 0)
    assert demo_server.metric("nv_inference_pending_request_count", model="scenes") == 0
    assert demo_server.metric("resonnx_caption_tokens_total", model="scenes") > 20
    assert demo_server.metric("resonnx_decoder_slots", model="scenes") >= 10
    assert demo_server.metric("resonnx_time_to_first_word_seconds_count", model="scenes") >= 20


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"beam_width": 11}, "beam_width"),
        ({"beam_width": 2**32 - 1}, "beam_width"),
        ({"num_captions": 2, "beam_width": 1}, "num_captions"),
        ({"max_tokens": 10_000}, "max_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": 1.0, "beam_width": 2}, "beam_width"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p"),
        ({"temperature": 1.0, "top_p": float("nan")}, "top_p"),
        ({"temperature": 1.0, "top_k": 1 << 20}, "top_k"),
        ({"top_k": 3}, "top_k"),
        ({"seed": 3}, "seed"),
        ({"length_normalization": 77}, "length_normalization"),
        ({"forbidden_words": ["nobody says this"]}, "forbidden_words"),
        ({"forbidden_words": ["<end>"]}, "forbidden_words"),
        ({"forbidden_words": ["a"] * 257}, "forbidden_words"),
        ({"prefix": ["nobody says this"]}, "prefix"),
        ({"prefix": ["a", "a"], "max_tokens": 2}, "prefix"),
    ],
)
def test_wrong_wishes_name_their_field(ask, fields: dict[str, object], field: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        ask(**fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(f"{field}: ")


def test_more_captions_than_beams_name_both(ask) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        ask(num_captions=3, beam_width=2)
    assert refused.value.details() == "num_captions: 3 is more than beam_width, which is 2"


def _infer(picture: bytes, **parameters: object) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="scenes", id="7")
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(picture).to_bytes(4, "little") + picture)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def _texts(response: oip.ModelInferResponse) -> list[str]:
    raw, texts = response.raw_output_contents[0], []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        texts.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return texts


def _text(response: oip.ModelInferResponse) -> str:
    (text,) = _texts(response)
    return text


def test_the_tensor_protocol_takes_the_same_wishes(channel: grpc.Channel, ask, picture: bytes) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    for parameters in (
        {},
        {"beam_width": 4},
        {"min_tokens": 7, "max_tokens": 7},
        {"temperature": 2.0, "seed": 12},
    ):
        response = stub.ModelInfer(_infer(picture, **parameters), timeout=30)
        wanted = ask(**parameters).captions[0]
        assert _text(response) == wanted.text
        log_prob = np.frombuffer(response.raw_output_contents[1], np.float32)
        assert log_prob == pytest.approx([wanted.log_prob], abs=1e-3)
    for parameters, name in (({"beam_width": 40}, "beam_width"), ({"temperature": "hot"}, "temperature")):
        with pytest.raises(grpc.RpcError, match=name) as refused:
            stub.ModelInfer(_infer(picture, **parameters), timeout=30)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_tensor_protocol_has_an_axis_for_the_best_captions(
    channel: grpc.Channel, ask, picture: bytes, demo_server
) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    for width, count in ((5, 3), (5, 5), (3, 2)):
        response = stub.ModelInfer(_infer(picture, beam_width=width, num_captions=count), timeout=30)
        wanted = ask(beam_width=width, num_captions=count).captions
        assert [list(output.shape) for output in response.outputs] == [[1, count], [1, count]]
        assert _texts(response) == [caption.text for caption in wanted]
        log_probs = np.frombuffer(response.raw_output_contents[1], np.float32)
        assert log_probs == pytest.approx([caption.log_prob for caption in wanted], abs=1e-3)
    assert list(stub.ModelInfer(_infer(picture, beam_width=3, num_captions=1), timeout=30).outputs[0].shape) == [1, 1]
    with tritonclient.InferenceServerClient(demo_server.grpc) as client:
        pictures = tritonclient.InferInput("image", [2], "BYTES")
        pictures.set_data_from_numpy(np.array([picture, picture], object))
        answer = client.infer("scenes", [pictures], parameters={"beam_width": 4, "num_captions": 4})
        assert answer.as_numpy("caption").shape == answer.as_numpy("log_prob").shape == (2, 4)
        assert answer.as_numpy("caption")[0].tolist() == answer.as_numpy("caption")[1].tolist()
    with pytest.raises(grpc.RpcError, match="num_captions") as refused:
        stub.ModelInfer(_infer(picture, beam_width=2, num_captions=3), timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_no_beam_may_take_leaves_something(demo_repository: Path) -> None:
    manifest = parse_manifest((demo_repository / "scenes" / "1" / "manifest.json").read_bytes())
    spec = manifest.captioner
    words = [i for i in range(len(spec.vocabulary)) if i != spec.end_id]
    spec.beam_forbidden_ids.extend(words[1:])
    validate_manifest(manifest)
    for forbidden, said in ((words, "leaves no"), ([spec.end_id], "leaves no"), ([len(words) + 1], "not below")):
        spec.beam_forbidden_ids[:] = forbidden
        with pytest.raises(ModelRefused, match=rf"captioner\.beam_forbidden_ids.* {said}"):
            validate_manifest(manifest)


def test_a_request_may_not_forbid_what_the_manifest_leaves_to_beams() -> None:
    spec = language.spec(beam_forbidden_ids=range(2, 39))
    words = {word: i for i, word in enumerate(spec.vocabulary)}
    captioner = CaptionerInfo(spec, words, 4)
    options = decode_options(vision_pb2.CaptionRequest(forbidden_words=["w39"], beam_width=2), captioner)
    assert options.forbidden == {39}
    with pytest.raises(InvalidInput, match="all words of the vocabulary are forbidden"):
        decode_options(vision_pb2.CaptionRequest(forbidden_words=["w1", "w39"]), captioner)


def test_the_tensor_protocol_streams_words(channel: grpc.Channel, ask, picture: bytes) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    *words, last = stub.ModelStreamInfer(iter([_infer(picture, stream=True)]), timeout=30)
    assert _text(last.infer_response) == ask().captions[0].text == " ".join(_text(w.infer_response) for w in words)
    final = [answer.infer_response.parameters["triton_final_response"].bool_param for answer in [*words, last]]
    assert final == [False] * len(words) + [True]
    assert {answer.infer_response.id for answer in [*words, last]} == {"7"}
    with pytest.raises(grpc.RpcError, match="ModelStreamInfer"):
        stub.ModelInfer(_infer(picture, stream=True), timeout=30)
