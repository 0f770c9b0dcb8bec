"""Pictures posted as they are, against a real server of the demo models."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import resonnx

from ..asking_http import Answered, ask

Truth = dict[str, dict[str, str]]


def _named(truth: Truth, model: str) -> list[tuple[str, str]]:
    """Names and answers of the pictures of a model."""
    return [(name, entry.get("label") or entry["caption"]) for name, entry in truth.items() if entry["model"] == model]


def form(*files: tuple[str, bytes], field: str = "image", boundary: str = "xyz") -> tuple[bytes, str]:
    """Return a body of multipart/form-data and its type."""
    parts = []
    for name, content in files:
        shown = f'form-data; name="{field}"; filename="{name}"'
        head = f"--{boundary}\r\nContent-Disposition: {shown}\r\nContent-Type: application/octet-stream\r\n\r\n"
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _events(answer: Answered) -> Iterator[tuple[str, Any]]:
    for block in answer.body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_a_picture_is_classified_as_by_grpc(demo_server, samples: Path, truth: Truth) -> None:
    name, label = _named(truth, "digits")[0]
    file = (samples / name).read_bytes()
    answer = ask(demo_server.http, "/v1/classify/digits?top_k=3&return_features=true&id=seven", file)
    assert answer.headers["Content-Type"] == "application/json"
    with resonnx.Client(demo_server.grpc) as client:
        expected = client.classify(file, "digits", top_k=3, features=True)
    given = answer.json
    assert (given["model"], given["version"], given["id"]) == ("digits", 1, "seven")
    assert given["predictions"][0]["label"] == label
    assert [(each["label"], each["index"], each["score"]) for each in given["predictions"]] == [
        (each.label, each.index, each.score) for each in expected.predictions
    ]
    assert given["features"] == list(expected.features)
    assert given["timing"]["batch_size"] >= 1


def test_an_id_in_a_header_that_is_no_text_is_no_fault_of_the_server(demo_server, samples: Path, truth: Truth) -> None:
    name, _ = _named(truth, "digits")[0]
    answer = ask(demo_server.http, "/v1/classify/digits", (samples / name).read_bytes(), X_Request_Id="a\xff")
    assert (answer.status, answer.json["id"]) == (200, "a?")


def test_the_pictures_of_a_form_are_answered_one_by_one(demo_server, samples: Path, truth: Truth) -> None:
    chosen = _named(truth, "digits")[:3]
    files = [(name, (samples / name).read_bytes()) for name, _ in chosen]
    body, kind = form(*files, ("bad.png", b"no picture"))
    answer = ask(demo_server.http, "/v1/classify/digits?top_k=1", body, Content_Type=kind)
    *good, bad = answer.json["pictures"]
    assert [(each["name"], each["predictions"][0]["label"]) for each in good] == chosen
    assert (bad["name"], bad["reason"]) == ("bad.png", "BAD_IMAGE")
    body, kind = form(("bad.png", b"no picture"))
    answer = ask(demo_server.http, "/v1/classify/digits", body, Content_Type=kind)
    assert (answer.status, answer.json["reason"]) == (400, "BAD_IMAGE")


def test_the_pictures_of_a_form_share_the_limit_of_heatmaps(demo_server, samples: Path, truth: Truth) -> None:
    name, _ = _named(truth, "digits")[0]
    file = (samples / name).read_bytes()
    single = ask(demo_server.http, "/v1/classify/digits?top_k=1&return_heatmap=1", file).json
    positions = len(single["predictions"][0]["heatmap"])
    most = 16384 // positions // 10
    body, kind = form(*[(name, file)] * (most + 1))
    answer = ask(demo_server.http, "/v1/classify/digits?top_k=10&return_heatmap=1", body, Content_Type=kind)
    assert (answer.status, answer.json["reason"]) == (400, "INVALID_INPUT")
    assert f"of each of {most + 1} pictures" in answer.json["error"]
    body, kind = form(*[(name, file)] * most)
    answer = ask(demo_server.http, "/v1/classify/digits?top_k=10&return_heatmap=1", body, Content_Type=kind)
    assert {len(each["predictions"][9]["heatmap"]) for each in answer.json["pictures"]} == {positions}


def test_a_caption_and_its_words(demo_server, samples: Path, truth: Truth) -> None:
    name, text = _named(truth, "scenes")[0]
    file = (samples / name).read_bytes()
    (best,) = ask(demo_server.http, "/v1/caption/scenes", file).json["captions"]
    assert best["text"] == text
    answer = ask(demo_server.http, "/v1/caption/scenes", file, Accept="text/event-stream")
    assert answer.headers["Content-Type"] == "text/event-stream"
    *words, (last, final) = _events(answer)
    assert {name for name, _ in words} == {"word"}
    assert [data["text"] for _, data in words] == text.split()
    assert (last, final["captions"][0]) == ("caption", best)


def test_options_of_captions(demo_server, samples: Path, truth: Truth) -> None:
    file = (samples / _named(truth, "scenes")[0][0]).read_bytes()
    query = "beam_width=3&num_captions=2&prefix=a+large&length_normalization=none&return_attention=0&max_tokens=9"
    captions = ask(demo_server.http, f"/v1/caption/scenes?{query}", file).json["captions"]
    assert len(captions) == 2
    assert all(each["text"].startswith("a large") for each in captions)
    sampled = ask(demo_server.http, f"/v1/caption/scenes?temperature=1.5&seed={2**64 - 1}", file).json
    assert sampled["seed"] == str(2**64 - 1)


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ("topk=3", 400, "topk: is not one of the options"),
        ("top_k=x", 400, "top_k: 'x' is not a number"),
        ("top_k=-1", 400, "top_k: -1 is not within 0..4294967295"),
        ("top_k=11", 400, "top_k: 11 is not within 0..10"),
        ("top_k=1&top_k=2", 400, "given more than once"),
        ("priority=9", 400, "priority: 9"),
        ("return_features=maybe", 400, "not true or false"),
        ("id=" + "x" * 257, 400, "id: more than 256 bytes"),
        ("version=7", 404, "no version 7"),
        ("version=canary", 404, "'canary'"),
        ("model=scenes", 400, "model: is not one of the options"),
    ],
)
def test_options_that_do_not_fit(demo_server, samples: Path, truth: Truth, query: str, status: int, error: str) -> None:
    file = (samples / _named(truth, "digits")[0][0]).read_bytes()
    answer = ask(demo_server.http, f"/v1/classify/digits?{query}", file)
    assert (answer.status, error in answer.json["error"]) == (status, True), answer.json


def test_the_model_must_have_the_task(demo_server) -> None:
    answer = ask(demo_server.http, "/v1/classify/scenes", b"any")
    assert (answer.status, "is a captioner, not a classifier" in answer.json["error"]) == (400, True)
    answer = ask(demo_server.http, "/v1/caption/scenes", b"any", Accept="text/event-stream")
    assert (answer.status, answer.json["reason"]) == (400, "BAD_IMAGE")
    body, kind = form(("a", b"1"), ("b", b"2"))
    answer = ask(demo_server.http, "/v1/caption/scenes", body, Accept="text/event-stream", Content_Type=kind)
    assert (answer.status, "for one" in answer.json["error"]) == (400, True)
