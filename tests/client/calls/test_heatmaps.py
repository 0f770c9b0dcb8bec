"""Heatmaps: asked for, read, and drawn over the part of the picture that the model saw."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import resonnx
from PIL import Image
from resonnx.cli import app
from resonnx_proto.v1 import vision_pb2 as pb
from typer.testing import CliRunner

PANEL, TEXT = 320, 24


@pytest.fixture
def answer(vision) -> pb.ClassifyResponse:
    """Two classes: the left speaks for the first, and the right against it; the second's is weaker."""
    answer = pb.ClassifyResponse(
        model="digits",
        version=2,
        heatmap_rows=1,
        heatmap_columns=2,
        heatmap_area=pb.Area(left=0.25, top=0, right=0.75, bottom=1),
    )
    answer.predictions.add(label="one", index=1, score=0.75, heatmap=[4, -4], heatmap_bias=0.5)
    answer.predictions.add(label="two", index=2, score=0.25, heatmap=[0, 0.5], heatmap_bias=-0.5)
    vision.script["Classify"] = lambda request, context: answer
    vision.script["GetModel"] = lambda request, context: pb.GetModelResponse(pictures=pb.PictureSettings())
    return answer


@pytest.fixture
def run(vision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run `resonnx classify` on a grey picture of 40x20 with green edges beyond the square in the middle."""
    monkeypatch.setenv("RESONNX_SERVER", vision.address)
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (40, 20), "lime")
    picture.paste((128, 128, 128), (10, 0, 30, 20))
    picture.save("cat.png")
    return lambda *arguments: CliRunner().invoke(app, ["classify", "cat.png", "--model", "digits", *arguments])


def test_heatmaps_are_asked_for_and_read(vision, call, answer: pb.ClassifyResponse) -> None:
    result = call("classify", b"png", "digits", heatmap=True)
    assert vision.requests[0].return_heatmap
    assert result.heatmap_grid == (1, 2)
    assert result.heatmap_area == (0.25, 0, 0.75, 1)
    assert [each.heatmap for each in result.predictions] == [(4, -4), (0, 0.5)]
    assert [each.heatmap_bias for each in result.predictions] == [0.5, -0.5]


def test_without_them_there_are_none(vision, call) -> None:
    vision.script["Classify"] = lambda request, context: pb.ClassifyResponse(predictions=[{"label": "a"}])
    result = call("classify", b"png", "digits")
    assert not vision.requests[0].return_heatmap
    assert (result.heatmap_grid, result.predictions[0].heatmap) == ((0, 0), ())


def test_streams_ask_for_them_too(vision) -> None:
    asked = []

    def stream(requests, context):
        for request in requests:
            asked.append(request.return_heatmap)
            yield pb.ClassifyStreamResponse(id=request.id, response={"heatmap_rows": 1, "heatmap_columns": 1})

    vision.script["ClassifyStream"] = stream
    vision.script["Classify"] = lambda request, context: pb.ClassifyResponse(heatmap_rows=int(request.return_heatmap))
    with resonnx.Client(vision.address) as client:
        ((_, found),) = client.classify_stream([b"png"], "digits", heatmap=True)
        (other,) = client.classify_many([b"png"], "digits", heatmap=True)
    assert asked == [True]
    assert (found.heatmap_grid, other.heatmap_grid[0]) == ((1, 1), 1)


def test_a_heatmap_is_drawn_over_what_the_model_saw(run, answer: pb.ClassifyResponse) -> None:
    done = run("--heatmap", "out.png")
    assert (done.exit_code, done.stdout) == (0, "one  0.75\ntwo  0.25\n")
    drawn = Image.open("out.png").convert("RGB")
    # The picture, and a panel for each class: squares, without the edges.
    assert drawn.size == (3 * PANEL, PANEL + TEXT)
    middle = TEXT + PANEL // 2
    plain, left, right, weak = (drawn.getpixel((x, middle)) for x in (40, PANEL + 40, 2 * PANEL - 40, 3 * PANEL - 40))
    assert plain == (128, 128, 128)
    assert left[0] > 200
    assert max(left[1:]) < 60
    assert right[2] > 200
    assert max(right[:2]) < 60
    # On the scale of the strongest.
    assert 128 < weak[0] < 160
    assert (0, 255, 0) not in {colour for _, colour in drawn.getcolors(1 << 20)}


def test_a_long_label_stays_above_its_own_panel(run, answer: pb.ClassifyResponse) -> None:
    answer.predictions[0].label = "word \n" * 100
    answer.predictions[1].label = " "
    assert run("--heatmap", "out.png").exit_code == 0
    titles = Image.open("out.png").convert("L").crop((0, 0, 3 * PANEL, TEXT))
    title, after = (titles.crop((x, 0, x + width, TEXT)) for x, width in ((PANEL, PANEL), (2 * PANEL + 60, PANEL - 60)))
    assert title.crop((PANEL - 60, 0, PANEL, TEXT)).getextrema()[0] < 128, "it is cut where the panel ends"
    assert after.getextrema() == (255, 255), "and does not go on above the next one, after its score"


def test_json_has_the_numbers(run, answer: pb.ClassifyResponse) -> None:
    line = json.loads(run("--heatmap", "out.png", "--json").stdout)
    assert line["predictions"][0]["heatmap"] == [4, -4]
    assert (line["heatmap_grid"], line["heatmap_area"]) == ([1, 2], [0.25, 0, 0.75, 1])
    answer.ClearField("heatmap_rows")
    for each in answer.predictions:
        each.ClearField("heatmap")
    assert set(json.loads(run("--json").stdout)["predictions"][0]) == {"label", "index", "score"}


def test_what_cannot_be_drawn_is_one_line(vision, run, answer: pb.ClassifyResponse) -> None:
    many = CliRunner().invoke(app, ["classify", "cat.png", "cat.png", "--model", "digits", "--heatmap", "out.png"])
    assert (many.exit_code, "one picture" in many.stderr) == (2, True)
    done = run("--heatmap", "out.unknown")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    for each in answer.predictions:
        each.ClearField("heatmap")
    done = run("--heatmap", "out.png")
    assert done.stderr == "resonnx: cat.png: out.png: model 'digits' returned no heatmaps\n"
