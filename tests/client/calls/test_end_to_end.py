"""The client against the real server and its demonstration models."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resonnx
import torch
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


@pytest.mark.parametrize("twin", ["sync", "async"])
def test_every_form_of_a_picture_gives_the_same_answer(
    demo_server: Any, client: resonnx.Client, digits: dict[Path, str], twin: str
) -> None:
    path = next(iter(digits))
    with Image.open(path) as image:
        picture = image.convert("RGB")
    pixels = np.array(picture)
    forms: list[resonnx.ImageSource] = [str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), picture]
    forms += [picture.convert("RGBA"), pixels, np.array(picture.convert("RGBA"))]
    forms += [torch.from_numpy(pixels), torch.from_numpy(pixels).permute(2, 0, 1)]

    async def ask() -> list[resonnx.Classification]:
        async with resonnx.AsyncClient(demo_server.grpc, timeout_s=30) as twin:
            return [await twin.classify(form, "digits", features=True) for form in forms]

    if twin == "sync":
        answers = [client.classify(form, "digits", features=True) for form in forms]
    else:
        answers = asyncio.run(ask())
    assert answers[0].predictions[0].label == digits[path]
    first = answers[0].features
    assert first
    for answer in answers:
        # Batches of other sizes may round otherwise; another pixel would show.
        assert answer.features == pytest.approx(first, rel=1e-4, abs=1e-5)


def test_a_16_bit_grey_picture_gives_what_its_file_gives(
    client: resonnx.Client, digits: dict[Path, str], tmp_path: Path
) -> None:
    for path, label in list(digits.items())[:3]:
        with Image.open(path) as image:
            grey = np.array(image.convert("L"))
        file = tmp_path / path.name
        Image.fromarray((grey.astype(np.uint16) << 8) | 0x7F).save(file, "PNG")
        with Image.open(file) as opened:
            assert opened.mode.startswith("I")
            by_picture = client.classify(opened, "digits", features=True)
        by_file = client.classify(file, "digits", features=True)
        assert by_picture.predictions[0].label == by_file.predictions[0].label == label
        assert by_picture.features == pytest.approx(by_file.features, rel=1e-4, abs=1e-5)
        assert client.classify(grey, "digits").predictions[0].label == label


def test_a_picture_of_more_pixels_than_fit_into_a_message_is_answered_as_its_file(
    demo_server: Any, client: resonnx.Client, digits: dict[Path, str], tmp_path: Path
) -> None:
    with Image.open(next(iter(digits))) as image:
        large = image.convert("RGB").resize((5600, 4000), Image.Resampling.NEAREST)
    file = tmp_path / "large.png"
    large.save(file, compress_level=1)

    async def ask() -> resonnx.Classification:
        async with resonnx.AsyncClient(demo_server.grpc, timeout_s=60) as twin:
            return await twin.classify(large, "digits", features=True)

    by_file = client.classify(file, "digits", features=True)
    for answer in (client.classify(large, "digits", features=True), asyncio.run(ask())):
        assert answer.features == pytest.approx(by_file.features, rel=1e-4, abs=1e-5)
        assert answer.predictions[0].label == by_file.predictions[0].label


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
    # The folder has pictures of scenes as well, which a classifier of digits answers as it can.
    (folder,) = {path.parent for path in digits}
    lines = run("classify", str(folder), "--model", "digits", "--json").splitlines()
    named = {Path(line["image"]): line["predictions"][0]["label"] for line in map(json.loads, lines)}
    assert list(named) == sorted(named)
    assert named.keys() == {*digits, *scenes}
    assert {path: named[path] for path in digits} == digits
    picture, caption = next(iter(scenes.items()))
    assert run("caption", str(picture), "--model", "scenes") == f"{caption}\n"
    assert run("caption", str(picture), "--model", "scenes", "--stream") == f"{caption}\n"
    assert "digits" in run("models")
    assert "scenes" in run("models", "scenes")
