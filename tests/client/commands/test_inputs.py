"""What the command's arguments mean: files, folders, patterns, standard input."""

import io
import json
import sys
from pathlib import Path

import pytest
from resonnx._commands.inputs import Inputs
from resonnx.cli import app
from resonnx_proto.v1 import vision_pb2
from typer.testing import CliRunner


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `in` with pictures, other files, hidden ones and a folder; files hold their names."""
    monkeypatch.chdir(tmp_path)
    names = ["b.jpg", "a.PNG", "c.webp", "notes.txt", ".hidden.jpg", "deep/d.jpg", "deep/deeper/e.jpg", "x[1].jpg"]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Path(name).name)
    (tmp_path / "in/folder.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["in/b.jpg"], ["in/b.jpg"]),
        (["in"], ["in/a.PNG", "in/b.jpg", "in/c.webp", "in/x[1].jpg"]),
        (["in/deep", "in/b.jpg"], ["in/deep/d.jpg", "in/b.jpg"]),
        (["in/*.jpg"], ["in/b.jpg", "in/x[1].jpg"]),
        (["in/**/*.jpg"], ["in/b.jpg", "in/deep/d.jpg", "in/deep/deeper/e.jpg", "in/x[1].jpg"]),
        (["in/[ab].*"], ["in/a.PNG", "in/b.jpg"]),
        # What is there goes before what could be a pattern.
        (["in/x[1].jpg"], ["in/x[1].jpg"]),
        (["in/notes.txt"], ["in/notes.txt"]),
        (["none.jpg", "in/*.bmp", "empty", "-"], ["none.jpg", "in/*.bmp", "empty", "-"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_which_pictures_arguments_mean(arguments: list[str], names: list[str]) -> None:
    inputs = Inputs(arguments)
    assert inputs.names == names
    assert inputs.named == (len(names) > 1 or names != arguments)


@pytest.mark.usefixtures("folder")
def test_one_picture_of_a_folder_is_named() -> None:
    assert Inputs(["in/deep"]).named


@pytest.mark.usefixtures("folder")
def test_what_cannot_be_read_says_why() -> None:
    inputs = Inputs(["empty", "in/*.bmp"])
    with pytest.raises(IsADirectoryError, match=r"a folder without pictures \(\.avif, \.bmp"):
        inputs.read("empty")
    with pytest.raises(FileNotFoundError, match="no file matches this pattern"):
        inputs.read("in/*.bmp")
    with pytest.raises(FileNotFoundError, match="No such file"):
        inputs.read("none.jpg")


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xd8\xff")))
    assert Inputs(["-"]).read("-") == b"\xff\xd8\xff"
    with pytest.raises(ValueError, match="can be read only once"):
        Inputs(["-", "a.jpg", "-"])


@pytest.mark.usefixtures("named", "folder")
def test_classify_a_folder_and_a_quoted_pattern(run) -> None:
    done = run("classify", "in", "in/**/e.jpg", "--model", "digits")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "in/a.PNG: a.PNG  0.50",
        "in/b.jpg: b.jpg  0.50",
        "in/c.webp: c.webp  0.50",
        "in/x[1].jpg: x[1].jpg  0.50",
        "in/deep/deeper/e.jpg: e.jpg  0.50",
    ]


@pytest.mark.usefixtures("named", "folder")
def test_a_folder_without_pictures_fails_alone(run) -> None:
    done = run("classify", "empty", "in/b.jpg", "--model", "digits")
    assert done.exit_code == 1
    assert done.stdout == "in/b.jpg: b.jpg  0.50\n"
    assert done.stderr.startswith("resonnx: empty: a folder without pictures (.avif, ")


@pytest.mark.usefixtures("named")
def test_classify_standard_input(vision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESONNX_SERVER", vision.address)
    done = CliRunner().invoke(app, ["classify", "-", "--model", "digits", "--json"], input=b"a picture")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["image"], line["predictions"][0]["label"]) == ("-", "a picture")
    assert CliRunner().invoke(app, ["classify", "-", "-", "--model", "digits"]).exit_code == 2


def test_caption_takes_the_same(vision, run, sentence, folder: Path) -> None:
    vision.script["Caption"] = lambda request, context: sentence
    vision.script["StreamCaption"] = lambda request, context: iter([vision_pb2.StreamCaptionResponse(final=sentence)])
    for flags in ([], ["--stream"]):
        done = run("caption", str(folder / "in/deep"), str(folder / "in/[bc].*"), "--model", "scenes", *flags)
        assert (done.exit_code, done.stderr) == (0, "")
        asked = [request.image.encoded.decode() for request in vision.requests]
        assert sorted(asked) == ["b.jpg", "c.webp", "d.jpg"]
        assert [line.split(": ")[0].rpartition("/")[2] for line in done.stdout.splitlines()] == [
            "d.jpg",
            "b.jpg",
            "c.webp",
        ]
        vision.requests.clear()
    done = CliRunner().invoke(app, ["caption", "-", "--model", "scenes"], input=b"a picture")
    assert done.stdout == "a circle\n"
    assert vision.requests[0].image.encoded == b"a picture"
