"""Golden examples and precision bounds: what the server will judge providers by."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from resonnx_export.errors import ParityFailed
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.captioner import Captioner
from resonnx_export.networks.resnet import ResNet
from resonnx_export.pictures.recipe import ExifOrientation, FilterName, image_input
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision.bounds import measure_captioner, measure_classifier, quantised_bound, reduced_bounds
from resonnx_export.proof import golden_examples as goldens
from resonnx_export.proof import reference
from resonnx_export.proof.drift import Rounding
from resonnx_export.proof.golden_examples import captioner_golden, classifier_golden, encoded_pictures
from resonnx_export.proof.parity import open_session
from resonnx_export.publish.manifest import new_manifest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import (
    check_recipe,
    dump_golden,
    judge_captions,
    judge_logits,
    parse_golden,
)

from ..conftest import WORDS

_NO_ROUNDING = Rounding({}, {})


@pytest.mark.parametrize("short_side", [None, 32, 37, 64])
@pytest.mark.parametrize("resize_filter", get_args(FilterName))
@pytest.mark.parametrize("exif", get_args(ExifOrientation))
def test_the_server_makes_the_same_pixels(short_side: int | None, resize_filter: str, exif: ExifOrientation) -> None:
    recipe = image_input(32, resize_short_side=short_side, resize_filter=resize_filter, exif_orientation=exif)
    encoded = encoded_pictures(recipe)
    assert [picture.file[:4] for picture in encoded] == [b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0", b"\x89PNG"]
    golden = goldens.Golden(np.zeros((1, 32, 32, 3), np.uint8), encoded=encoded)
    check_recipe(golden, recipe)
    other = image_input(
        32,
        resize_short_side=short_side,
        resize_filter=resize_filter,
        exif_orientation="apply" if exif == "ignore" else "ignore",
    )
    with pytest.raises(ModelRefused, match="does not decode to its stored pixels"):
        check_recipe(golden, other)


def test_classifier_golden_judges_the_graph(network: ResNet, model: bytes, recipe: pb.ImageInput) -> None:
    golden = parse_golden(dump_golden(classifier_golden(network, recipe, ())))
    assert golden.images.shape == (8, 32, 32, 3)
    assert golden.logits is not None
    logits = open_session(model).run({"image": golden.images})["logits"]
    assert judge_logits(golden.logits, logits, 1e-4).passed
    assert not judge_logits(golden.logits, logits * np.float32(1.01), 1e-3).passed


def test_captioner_golden_judges_the_graphs(
    captioner: Captioner, captioner_model: tuple[bytes, bytes], recipe: pb.ImageInput
) -> None:
    spec = pb.CaptionerSpec(
        vocabulary=WORDS, start_id=1, end_id=2, max_tokens=9, attention_rows=16, attention_columns=16
    )
    manifest = new_manifest(RecognisedCheckpoint("resonnx-captioner", "small", captioner, ()), [], recipe, spec)
    golden = parse_golden(dump_golden(captioner_golden(captioner, recipe, spec, (), _NO_ROUNDING)))
    assert 1 <= len(golden.images) <= 8
    decoded = decode_all(CaptionerGraphs(*map(open_session, captioner_model), manifest), golden.images, spec)
    verdict = judge_captions(golden, decoded, 1e-3)
    assert verdict.passed, verdict.detail
    captions = reference.caption(captioner, reference.encode(captioner, golden.images, recipe), spec)
    assert all(caption.margin > 2e-3 for caption in captions)


def test_captions_without_a_clear_word_are_no_golden(captioner: Captioner, recipe: pb.ImageInput) -> None:
    undecided = Captioner(captioner.config)
    undecided.load_state_dict(captioner.state_dict())
    for parameter in undecided.fc.parameters():
        parameter.data.zero_()
    spec = pb.CaptionerSpec(vocabulary=WORDS, start_id=1, end_id=2, max_tokens=5)
    with pytest.raises(ParityFailed, match="clearly ahead"):
        captioner_golden(undecided.eval().requires_grad_(False), recipe, spec, (), _NO_ROUNDING)


def test_rounding_gives_what_half_precision_gives(network: ResNet, recipe: pb.ImageInput) -> None:
    images = check_pictures(recipe, 8, seed=3)
    exact = reference.classify(network, images, recipe).logits
    for dtype, deviation in measure_classifier(network, images, recipe).items():
        half = ResNet(network.config).eval()
        half.load_state_dict(network.state_dict())
        with torch.no_grad():
            logits = half.to(dtype)(reference.normalise(images, recipe).to(dtype)).float().numpy()
        native = np.abs(logits - exact).max() / np.abs(exact).max()
        assert native / 3 < deviation < native * 3


def test_bounds_are_twice_what_was_measured() -> None:
    bounds = {
        bound.precision: bound.max_deviation
        for bound in reduced_bounds("model.onnx", {torch.bfloat16: 0.02, torch.float16: 1e-5})
    }
    assert bounds == {pb.PRECISION_BF16: 0.04, pb.PRECISION_FP16: 5e-4, pb.PRECISION_TF32: 5e-4}


def test_overflow_forbids_fp16_and_leaves_tf32_to_bf16() -> None:
    bounds = {
        bound.precision: bound.max_deviation
        for bound in reduced_bounds("model.onnx", {torch.bfloat16: 0.02, torch.float16: math.inf})
    }
    assert bounds == {pb.PRECISION_BF16: 0.04, pb.PRECISION_TF32: 0.04}


@pytest.mark.parametrize("deviation", [0.26, 10.0, math.inf, math.nan])
def test_what_no_server_would_take_is_not_exported(deviation: float) -> None:
    assert quantised_bound("decoder.onnx", pb.PRECISION_INT8, 0.25).max_deviation == 0.5
    with pytest.raises(ParityFailed, match=r"decoder.onnx in int8 lies .* of max\|reference\| .*\(at most 0.25\)"):
        quantised_bound("decoder.onnx", pb.PRECISION_INT8, deviation)


def test_overflow_is_noticed(network: ResNet, recipe: pb.ImageInput) -> None:
    loud = ResNet(network.config)
    loud.load_state_dict(network.state_dict())
    loud.fc.weight.data *= 1e6
    deviations = measure_classifier(loud.eval().requires_grad_(False), check_pictures(recipe, 2, seed=0), recipe)
    assert math.isinf(deviations[torch.float16])
    assert deviations[torch.bfloat16] < 0.5


def test_captioner_files_are_measured_apart(captioner: Captioner, recipe: pb.ImageInput) -> None:
    spec = pb.CaptionerSpec(vocabulary=WORDS, start_id=1, end_id=2, max_tokens=9)
    golden = captioner_golden(captioner, recipe, spec, (), _NO_ROUNDING)
    deviations = measure_captioner(captioner, check_pictures(recipe, 8, seed=3), golden, recipe, spec)
    assert set(deviations) == {"encoder.onnx", "decoder.onnx"}
    for by_type in deviations.values():
        assert 0 < by_type[torch.float16] < by_type[torch.bfloat16] < 0.2
