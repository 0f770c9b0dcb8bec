"""The client against the real server and its demonstration models."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import resonnx
from PIL import Image
from resonnx.cli import app
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def digits(samples: Path, truth: dict[str, dict[str, str]]) -> dict[Path, str]:
    """Pictures of digits, and their labels."""
    return {samples / n: t["label"] for n, t in truth.items() if t["model"] == "digits"}


@pytest.fixture(scope="module")
def scenes(samples: Path, truth: dict[str, dict[str, str]]) -> dict[Path, str]:
    """Pictures of scenes, and their captions."""
    return {samples / n: t["caption"] for n, t in truth.items() if t["model"] == "scenes"}


@pytest.fixture
def client(demo_server: Any) -> Any:
    """A client of the demonstration server."""
    with resonnx.Client(demo_server.grpc, timeout_s=30) as client:
        yield client


def test_digits_are_read(client: resonnx.Client, digits: dict[Path, str]) -> None:
    for path, label in digits.items():
        result = client.classify(path, "digits")
        assert result.predictions[0].label == label
        scores = [prediction.score for prediction in result.predictions]
        assert scores == sorted(scores, reverse=True)
        assert result.timing.batch_size >= 1


def test_every_form_of_a_picture_gives_the_same_answer(client: resonnx.Client, digits: dict[Path, str]) -> None:
    path = next(iter(digits))
    with Image.open(path) as image:
        forms: list[resonnx.ImageSource] = [str(path), path.read_bytes(), image.copy()]
    answers = {client.classify(form, "digits").predictions[0].index for form in forms}
    assert len(answers) == 1


def test_features_are_as_long_as_the_manifest_says(client: resonnx.Client, digits: dict[Path, str]) -> None:
    info = client.model("digits")
    assert info.verified
    assert info.manifest
    result = client.classify(next(iter(digits)), "digits", features=True)
    assert result.features
    assert len(result.features) == info.manifest.classifier.feature_size
    assert result.version == info.summary.version


def test_a_stream_answers_each_picture_once(client: resonnx.Client, digits: dict[Path, str]) -> None:
    paths = list(digits) * 8
    outcomes = dict(client.classify_stream([*paths, b"junk"], "digits"))
    assert sorted(outcomes) == list(range(len(paths) + 1))
    junk = outcomes.pop(len(paths))
    assert isinstance(junk, resonnx.InvalidArgument)
    for index, outcome in outcomes.items():
        assert isinstance(outcome, resonnx.Classification)
        assert outcome.predictions[0].label == digits[paths[index]]


def test_scenes_are_told_whole_and_word_by_word(client: resonnx.Client, scenes: dict[Path, str]) -> None:
    for path, caption in scenes.items():
        told = client.caption(path, "scenes")
        assert told.captions[0].text == caption
        *words, last = client.stream_caption(path, "scenes")
        assert isinstance(last, resonnx.CaptionResult)
        assert last.captions[0].text == caption
        assert [word.text for word in words if isinstance(word, resonnx.Word)] == [
            word.text for word in last.captions[0].words
        ]


def test_many_callers_share_the_server(demo_server: Any, digits: dict[Path, str], scenes: dict[Path, str]) -> None:
    async def ask() -> None:
        async with resonnx.AsyncClient(demo_server.grpc, timeout_s=30) as client:
            labels = await asyncio.gather(*(client.classify(p, "digits") for p in digits))
            captions = await asyncio.gather(*(client.caption(p, "scenes") for p in scenes))
        assert [label.predictions[0].label for label in labels] == list(digits.values())
        assert [caption.captions[0].text for caption in captions] == list(scenes.values())

    asyncio.run(ask())


def test_refusals(client: resonnx.Client, digits: dict[Path, str]) -> None:
    picture = next(iter(digits))
    with pytest.raises(resonnx.NotFound):
        client.classify(picture, "nobody")
    with pytest.raises(resonnx.NotFound):
        client.classify(picture, "digits", version=9999)
    with pytest.raises(resonnx.InvalidArgument) as caught:
        client.classify(b"not a picture", "digits")
    assert caught.value.reason != caught.value.code


def test_what_is_wanted_too_soon_is_refused_alone(client: resonnx.Client, digits: dict[Path, str]) -> None:
    pictures = list(digits)[:3]
    with pytest.raises(resonnx.DeadlineExceeded) as caught:
        client.classify(pictures[0], "digits", answer_within_s=1e-6)
    assert (caught.value.reason, caught.value.retry_after_s) == ("DEADLINE_UNREACHABLE", None)
    for _, outcome in client.classify_stream(pictures, "digits", answer_within_s=1e-6):
        assert isinstance(outcome, resonnx.DeadlineExceeded)
        assert (outcome.reason, outcome.retry_after_s) == ("DEADLINE_UNREACHABLE", None)
    assert client.classify(pictures[0], "digits", priority=1, answer_within_s=30).predictions
    with pytest.raises(resonnx.InvalidArgument) as refused:
        client.caption(pictures[0], "scenes", priority=9)
    assert refused.value.field == "priority"


def test_models_are_listed(client: resonnx.Client) -> None:
    listed = {model.name: model for model in client.models()}
    assert listed["digits"].task == "classifier"
    assert listed["scenes"].task == "captioner"
    assert {listed["digits"].state, listed["scenes"].state} == {"ready"}


def test_the_command_line(demo_server: Any, digits: dict[Path, str], scenes: dict[Path, str]) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--server", demo_server.grpc])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    lines = run("classify", *map(str, digits), "--model", "digits", "--json").splitlines()
    for line, (path, label) in zip(map(json.loads, lines), digits.items(), strict=True):
        assert line["image"] == str(path)
        assert line["predictions"][0]["label"] == label
    picture, caption = next(iter(scenes.items()))
    assert run("caption", str(picture), "--model", "scenes") == f"{caption}\n"
    assert run("caption", str(picture), "--model", "scenes", "--stream") == f"{caption}\n"
    assert "digits" in run("models")
    assert "scenes" in run("models", "scenes")
