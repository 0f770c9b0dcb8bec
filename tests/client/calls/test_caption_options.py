"""What a caller says about decoding, on the wire and on the command line, and the drawing of attention."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import resonnx
from PIL import ExifTags, Image
from resonnx.cli import app
from resonnx_proto.v1 import manifest_pb2, vision_pb2
from typer.testing import CliRunner

LENGTH = manifest_pb2.CaptionerSpec.LENGTH_NORMALIZATION_LENGTH


@pytest.fixture
def run(vision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., object]:
    """Run `resonnx caption` on a picture of 40x20, half black and half white."""
    monkeypatch.setenv("RESONNX_SERVER", vision.address)
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste("black", (0, 0, 20, 20))
    picture.save("cat.png")
    return lambda *arguments: CliRunner().invoke(app, ["caption", "cat.png", "--model", "scenes", *arguments])


@pytest.fixture
def looking(sentence) -> vision_pb2.CaptionResponse:
    """An answer whose words look at one of 1x2 positions each."""
    for i, word in enumerate(sentence.captions[0].words):
        word.attention.extend([1.0 - i, float(i)])
    sentence.attention_rows, sentence.attention_columns = 1, 2
    return sentence


def test_options_reach_the_server(vision, call, looking) -> None:
    vision.script["Caption"] = lambda request, context: looking
    result = call(
        "caption",
        b"png",
        "scenes",
        beam_width=4,
        num_captions=2,
        length_normalization="length",
        min_tokens=3,
        forbidden_words=["cat"],
        prefix=["a"],
        attention=True,
    )
    request = vision.requests[0]
    assert (request.beam_width, request.num_captions, request.min_tokens) == (4, 2, 3)
    assert (request.length_normalization, request.return_attention) == (LENGTH, True)
    assert (list(request.forbidden_words), list(request.prefix)) == (["cat"], ["a"])
    assert not request.HasField("seed")
    assert result.attention_grid == (1, 2)
    assert [word.attention for word in result.captions[0].words] == [(1.0, 0.0), (0.0, 1.0)]


def test_a_seed_of_zero_is_a_seed(vision, call, sentence) -> None:
    sentence.seed = 0
    vision.script["Caption"] = lambda request, context: sentence
    assert call("caption", b"png", "scenes", temperature=0.5, top_k=9, top_p=0.5, seed=0).seed == 0
    assert vision.requests[0].HasField("seed")
    assert (vision.requests[0].temperature, vision.requests[0].top_k, vision.requests[0].top_p) == (0.5, 9, 0.5)


def test_options_that_there_are_not(vision) -> None:
    with resonnx.Client(vision.address) as client:
        with pytest.raises(TypeError, match="beams"):
            client.caption(b"png", "scenes", beams=3)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="LENGTH_NORMALIZATION_SQUARE"):
            client.caption(b"png", "scenes", length_normalization="square")  # type: ignore[arg-type]
    assert not vision.requests


def test_several_captions_are_printed_with_their_scores(vision, run, sentence) -> None:
    sentence.captions.add(text="a box or so", score=-1.25)
    vision.script["Caption"] = lambda request, context: sentence
    done = run("--captions", "2", "--beam-width", "3", "--max-tokens", "9", "--temperature", "0.5", "--seed", "0")
    assert done.stdout == "a circle     -0.50\na box or so  -1.25\n"
    request = vision.requests[0]
    assert (request.num_captions, request.beam_width, request.max_tokens, request.seed) == (2, 3, 9, 0)


PANEL, TEXT = 192, 24


@pytest.fixture
def described(vision) -> vision_pb2.GetModelResponse:
    """What the server tells of the model."""
    told = vision_pb2.GetModelResponse(pictures=vision_pb2.PictureSettings())
    vision.script["GetModel"] = lambda request, context: told
    return told


@pytest.mark.usefixtures("described")
def test_attention_is_drawn(vision, run, looking) -> None:
    vision.script["Caption"] = lambda request, context: looking
    done = run("--attention", "out.png")
    assert (done.exit_code, done.stdout) == (0, "a circle\n")
    assert vision.requests[0].return_attention
    drawn = Image.open("out.png").convert("L")
    # The second panel is the first word, which looked at the left (black) half; the third at the right (white) one.
    assert drawn.size == (3 * PANEL, PANEL // 2 + TEXT), "panels have the picture's shape"
    first, second = (drawn.getpixel((n * PANEL + 160, TEXT + 48)) for n in (1, 2))
    assert first < 80
    assert second > 240


@pytest.mark.parametrize(("orientation", "is_turned"), [("IGNORE", False), ("APPLY", True)])
def test_attention_is_drawn_over_the_picture_as_the_model_had_it(
    vision, run, looking, described, orientation: str, is_turned: bool
) -> None:
    """Black on the left, and as it was seen at the top."""
    described.pictures.exif_orientation = f"EXIF_ORIENTATION_{orientation}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open("cat.png") as picture:
        picture.save("cat.png", exif=exif)
    vision.script["Caption"] = lambda request, context: looking
    assert run("--attention", "out.png").exit_code == 0
    drawn = Image.open("out.png").convert("L")
    width, height = (PANEL // 2, PANEL) if is_turned else (PANEL, PANEL // 2)
    assert drawn.size == (3 * width, height + TEXT)
    top_right, bottom_left = (drawn.getpixel((x * width // 6, TEXT + y * height // 6)) for x, y in ((5, 1), (1, 5)))
    assert (top_right < 80, bottom_left < 80) == ((True, False) if is_turned else (False, True))


@pytest.mark.parametrize(("resize", "is_seen"), [("STRETCH", True), ("SHORT_SIDE_CROP", False)])
def test_attention_is_drawn_over_the_part_that_the_model_had(
    vision, run, looking, described, resize: str, is_seen: bool
) -> None:
    described.manifest.input.MergeFrom(
        manifest_pb2.ImageInput(width=16, height=16, resize_short_side=16, resize=f"RESIZE_{resize}")
    )
    with Image.open("cat.png") as picture:
        # Beyond the square in the middle.
        picture.paste("red", (0, 0, 9, 20))
        picture.paste("red", (31, 0, 40, 20))
        picture.save("cat.png")
    vision.script["Caption"] = lambda request, context: looking
    assert run("--attention", "out.png").exit_code == 0
    height = PANEL // 2 if is_seen else PANEL
    drawn = Image.open("out.png").convert("RGB").crop((0, TEXT, PANEL, TEXT + height))
    assert ((255, 0, 0) in {colour for _, colour in drawn.getcolors(PANEL * PANEL)}) == is_seen
    halves = [drawn.getpixel((x, height // 2)) for x in (72, 120)]
    assert halves == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.usefixtures("described")
def test_no_attention_to_draw_is_one_line(vision, run, sentence) -> None:
    vision.script["Caption"] = lambda request, context: sentence
    done = run("--attention", "out.png")
    assert done.exit_code == 1
    assert done.stderr == "resonnx: cat.png: out.png: model 'scenes' returned no attention\n"


@pytest.mark.usefixtures("described")
def test_a_file_that_cannot_be_drawn_is_one_line(vision, run, looking) -> None:
    vision.script["Caption"] = lambda request, context: looking
    done = run("--attention", "out.nothing")
    assert done.exit_code == 1
    assert done.stderr.startswith("resonnx: cat.png: out.nothing: ")


@pytest.mark.parametrize(
    "arguments",
    [["--stream", "--attention", "x.png"], ["--stream", "--captions", "2"], ["--beam-width", "11"], ["dog.png"]],
)
def test_wrong_usage(run, arguments: list[str]) -> None:
    assert run("--attention", "out.png", *arguments).exit_code == 2


def test_the_command_needs_no_pillow_until_it_draws() -> None:
    code = "import sys; sys.modules['PIL'] = None; from resonnx import cli; print('fine')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "fine\n"
