"""Clips posted as they are, against a real server of small video classifiers."""

import io
from typing import Any

import numpy as np
import pytest
import resonnx_server.protocol.vision.video as serving
from PIL import Image

from .....running import RunningServer
from .... import clip_model
from ....clip_model import LABELS, clip, gif, logits_of
from ..asking_http import ask
from .test_picture_pages import form


def png(frame: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(frame).save(written, "PNG")
    return written.getvalue()


def frames(given: np.ndarray) -> list[tuple[str, bytes]]:
    """Return the files of a form, whose names do not tell their order."""
    return [(f"{len(given) - i}.png", png(frame)) for i, frame in enumerate(given)]


def scores(answer: dict[str, Any]) -> np.ndarray:
    assert [LABELS[each["index"]] for each in answer["predictions"]] == [
        each["label"] for each in answer["predictions"]
    ]
    found = {each["label"]: each["score"] for each in answer["predictions"]}
    return np.array([found[label] for label in LABELS])


def expected(given: np.ndarray, *, bidirectional: bool = False) -> np.ndarray:
    logits = logits_of(clip_model.files(bidirectional=bidirectional), given)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@pytest.mark.parametrize(("model", "bidirectional"), [("motions", False), ("both-ways", True)])
def test_a_clip_gets_the_models_answer_as_a_file_and_as_frames(
    video_server: RunningServer, model: str, bidirectional: bool
) -> None:
    given = clip(9)
    body, kind = form(*frames(given))
    path = f"/v1/classify-video/{model}?id=a&version=1&priority=2"
    for answer in (ask(video_server.http, path, gif(given)), ask(video_server.http, path, body, Content_Type=kind)):
        assert answer.status == 200, answer.json
        np.testing.assert_allclose(scores(answer.json), expected(given, bidirectional=bidirectional), atol=1e-5)
        assert [answer.json[name] for name in ("model", "version", "id")] == [model, 1, "a"]
        assert answer.json["frames_read"] == list(range(9))
        assert answer.json["timing"]["decode_us"] > 0
    best = ask(video_server.http, f"/v1/classify-video/{model}?top_k=2", gif(given)).json["predictions"]
    assert [each["score"] for each in best] == sorted(each["score"] for each in answer.json["predictions"])[:2:-1]


def test_a_clip_counts_as_one_request(video_server: RunningServer) -> None:
    def counted() -> list[float]:
        names = "nv_inference_request_success", "nv_inference_count"
        return [video_server.metric(name, model="motions", version="1") for name in names]

    before = counted()
    body, kind = form(*frames(clip(6)))
    assert ask(video_server.http, "/v1/classify-video/motions?id=counted", body, Content_Type=kind).status == 200
    after = counted()
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 6]


BAD_FRAMES = [*frames(clip(3)), ("x", b"no picture")]


@pytest.mark.parametrize(
    ("query", "body", "field", "error"),
    [
        ("", b"no video", "clip", "animated GIF and WebP"),
        ("", gif(clip(65)), "clip", "at most 64"),
        ("", frames(clip(65)), "parts", "65 frames to read, more than 64 (max_frames)"),
        ("", BAD_FRAMES, "parts[3]", "parts[3]: "),
        ("top_k=6", gif(clip(2)), "top_k", "6 is not within 0..5"),
        ("priority=9", gif(clip(2)), "priority", "9"),
        (
            "frames=2",
            gif(clip(2)),
            "frames",
            "is not one of the options id, priority, timeout_us, top_k, version, times_s",
        ),
        ("times_s=0,1", frames(clip(1)), "times_s", "2 times of 1 frames"),
        ("times_s=0,x", frames(clip(2)), "times_s[1]", "'x' is not a number"),
        ("times_s=1,0", frames(clip(2)), "times_s[1]", "below the time before it"),
        ("times_s=0,1", gif(clip(2)), "times_s", "a file has times of its own"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_clip_is_refused_by_the_name_of_what_is_wrong(
    video_server: RunningServer, query: str, body: bytes | list[tuple[str, bytes]], field: str, error: str
) -> None:
    content, kind = (body, "image/gif") if isinstance(body, bytes) else form(*body)
    answer = ask(video_server.http, f"/v1/classify-video/motions?{query}", content, Content_Type=kind)
    assert (answer.status, answer.json["field"]) == (400, field), answer.json
    assert error in answer.json["error"]


def test_a_form_has_no_more_frames_than_a_message(video_server: RunningServer) -> None:
    body, kind = form(*[("f", b"")] * (serving.MOST_IMAGES + 1))
    answer = ask(video_server.http, "/v1/classify-video/motions", body, Content_Type=kind)
    assert (answer.status, answer.json["error"]) == (400, f"request: more than {serving.MOST_IMAGES} files")


def test_a_deadline_that_has_passed(video_server: RunningServer) -> None:
    late = ask(video_server.http, "/v1/classify-video/motions?timeout_us=1", gif(clip(3)))
    assert late.status == 504
    assert late.json["reason"] in ("DEADLINE_EXCEEDED", "DEADLINE_UNREACHABLE")


def test_the_model_must_classify_clips_of_pictures(video_server: RunningServer) -> None:
    answer = ask(video_server.http, "/v1/classify/motions", png(clip(1)[0]))
    assert (answer.status, answer.json["reason"]) == (400, "INVALID_INPUT")
    answer = ask(video_server.http, "/v1/classify-video/numbers", gif(clip(2)))
    assert (answer.status, "takes features of frames" in answer.json["error"]) == (415, True)
    assert ask(video_server.http, "/v1/classify-video/none", gif(clip(2))).status == 404


def test_nothing_is_left_of_what_was_asked(video_server: RunningServer) -> None:
    video_server.lets_go()
    assert "Traceback" not in video_server.log.read_text()
