"""Captions and tokens that the user's own captioner wrote, compared word by word."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resonnx_export
import torch
from PIL import Image
from resonnx_export import captioner as captioner_export
from resonnx_export.answers.captions import judge_words, network_captions
from resonnx_export.answers.recorded import Answers, read_answers
from resonnx_export.cli import app
from resonnx_export.errors import BadInput, ExportError
from resonnx_export.networks.captioner import Captioner
from resonnx_export.pictures.recipe import image_input
from resonnx_export.proof.reference import Caption
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor
from typer.testing import CliRunner

from ..conftest import WORDS

RECIPE = image_input(32, resize_short_side=None)
SPEC = pb.CaptionerSpec(
    vocabulary=WORDS, start_id=1, end_id=2, pad_id=0, unknown_id=3, stripped_ids=[1, 0], max_tokens=9
)
PIXELS = np.random.default_rng(4).integers(0, 256, (5, 32, 32, 3), np.uint8)
# Captions tell these apart.
_COLOURS = np.array([[250, 10, 0], [0, 20, 250], [255, 200, 0], [0, 90, 255], [120, 0, 20]], np.uint8)
COLOURS = np.repeat(np.repeat(_COLOURS[:, None, None], 32, axis=1), 32, axis=2)


@pytest.fixture(scope="module")
def captions(captioner: Captioner) -> list[Caption]:
    return network_captions(captioner, PIXELS, RECIPE, SPEC)


def words_of(captions: Sequence[Caption]) -> list[str]:
    return [" ".join(WORDS[token] for token in caption.tokens if token > 2) for caption in captions]


def test_words_of_every_form_are_compared(captions: list[Caption]) -> None:
    """Tokens with a start token, with the end or without, padded by -1 or by <pad>, after the end; and texts."""
    rows = [[token for token in caption.tokens.tolist() if token > 2] for caption in captions]
    width = 12
    forms = [
        [[*row, 2][:9] + [-1] * (width - len([*row, 2][:9])) for row in rows],
        [([1, *row, 2] + [0] * width)[:width] for row in rows],
        [([*row, 2] + [7] * width)[:width] for row in rows],
    ]
    for form in forms:
        judged = judge_words(Answers("a.npz", PIXELS, tokens=np.array(form)), captions, SPEC)
        assert judged.passed, judged.detail
        assert (judged.check.identical, judged.check.pictures) == (5, 5)
    for texts in (words_of(captions), [f"<start> {text} <end>" for text in words_of(captions)]):
        assert judge_words(Answers("a.npz", PIXELS, captions=tuple(texts)), captions, SPEC).passed


def test_another_word_is_told(captions: list[Caption]) -> None:
    texts = words_of(captions)
    first, *rest = texts[2].split()
    texts[2] = " ".join(["word15" if first != "word15" else "word14", *rest])
    judged = judge_words(Answers("a.npz", PIXELS, captions=tuple(texts)), captions, SPEC)
    assert not judged.passed
    assert "4 of 5 greedy captions identical word by word" in judged.detail
    assert f"picture 2: {' '.join([first, *rest])!r}, yours {texts[2]!r}" in judged.detail
    texts[2] = "zebra"
    judged = judge_words(Answers("a.npz", PIXELS, captions=tuple(texts)), captions, SPEC)
    assert "yours '(not in the vocabulary)'" in judged.detail


def test_a_caption_that_the_user_cut_is_compared_as_far_as_it_goes(captions: list[Caption]) -> None:
    cut = np.array([[token for token in caption.tokens.tolist() if token > 2][:2] for caption in captions])
    assert judge_words(Answers("a.npz", PIXELS, tokens=cut), captions, SPEC).passed


@pytest.mark.parametrize(
    ("distance", "device", "passes"), [(5e-5, "cpu", True), (5e-3, "cpu", False), (5e-3, "cuda", True)]
)
def test_words_may_differ_after_a_near_tie(distance: float, device: str, passes: bool) -> None:
    log_probs = np.full((2, len(WORDS)), -9.0, np.float32)
    log_probs[0, [5, 6]] = -0.7, -0.7 - distance
    log_probs[1, 2] = -0.1
    caption = Caption(np.array([5, 2]), log_probs)
    judged = judge_words(Answers("a.npz", PIXELS[:1], captions=("word2 word9",), device=device), [caption], SPEC)
    assert judged.passed == passes
    assert judged.check.identical == 0


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"logits": np.zeros((5, 20), np.float32)}, "holds logits; a captioner is compared by tokens or captions"),
        ({"tokens": np.full((5, 3), 20)}, "tokens holds 20, and the vocabulary has 20 words"),
    ],
)
def test_answers_of_other_models(arrays: dict[str, Any], said: str, captions: list[Caption]) -> None:
    with pytest.raises(BadInput) as refused:
        judge_words(Answers("a.npz", PIXELS, **arrays), captions, SPEC)
    assert said in str(refused.value)


class Agreed(ExportError):
    """Raised where tracing would begin."""


def test_the_command(
    captioner: Captioner, captioner_file: Path, words_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace(*given: object) -> bytes:
        raise Agreed("agreed")

    monkeypatch.setattr(captioner_export, "trace_encoder", trace)

    def export(answers: Path, *options: object) -> str:
        common = ["--vocab", words_file, "--repository", tmp_path / "m", "--name", "c", "--max-tokens", 9]
        command = ["captioner", captioner_file, *common, "--size", 32, "--expect", answers, *options]
        result = CliRunner().invoke(app, [str(each) for each in command])
        assert result.exit_code in (1, 2), result.output
        return result.stderr.strip().splitlines()[-1]

    def halves(picture: Image.Image) -> Tensor:
        return torch.tensor(np.array(picture)).permute(2, 0, 1) / 127.5 - 1

    def write(inputs: Tensor) -> list[list[int]]:
        """Caption as if the network took B, G, R."""
        pixels = ((inputs + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()[..., ::-1]
        written = network_captions(captioner, np.ascontiguousarray(pixels), RECIPE, SPEC)
        return [caption.tokens.tolist() for caption in written]

    answers = resonnx_export.record(write, COLOURS, tmp_path / "a.npz", preprocess=halves)
    assert read_answers(answers).kind == "tokens"
    message = export(answers)
    assert "greedy captions identical word by word" in message
    assert "with --channel-order bgr it does" in message
    assert export(answers, "--channel-order", "bgr") == "resonnx-export: agreed"


def test_tokens_without_a_word_say_nothing(captions: list[Caption]) -> None:
    with pytest.raises(BadInput, match=r"tokens \[1\] of picture 0 hold no word; record whole captions"):
        judge_words(Answers("a.npz", PIXELS, tokens=np.full((5, 1), 1)), captions, SPEC)
