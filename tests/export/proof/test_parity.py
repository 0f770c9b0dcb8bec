"""The proof must pass what is equal, and refuse whatever is not: weights, rows that see each other, words."""

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from resonnx_export.errors import ParityFailed
from resonnx_export.graphs.trace import trace_classifier, trace_decoder
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.networks.captioner import Captioner
from resonnx_export.networks.resnet import ResNet
from resonnx_export.proof import parity, reference
from resonnx_export.proof.captions import compare_captions, is_near_tie
from resonnx_export.proof.comparisons import prove_captioner, prove_classifier
from resonnx_export.proof.parity import Case, compare, damaged_copies, open_session, prove_graph
from resonnx_export.proof.reference import Caption
from resonnx_export.publish.manifest import new_manifest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.sequence import Sequence, Token

from ..conftest import WORDS


@pytest.fixture(scope="module")
def captioner_manifest(captioner: Captioner, recipe: pb.ImageInput) -> pb.Manifest:
    spec = pb.CaptionerSpec(
        vocabulary=WORDS, start_id=1, end_id=2, max_tokens=9, attention_rows=16, attention_columns=16
    )
    return new_manifest(RecognisedCheckpoint("resonnx-captioner", "small", captioner, ("float32",)), [], recipe, spec)


def identity_graph(body: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None) -> bytes:
    """A graph x [N,4] -> y [N,4] of the given nodes."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(body, "g", tensors[:1], tensors[1:], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def test_equal_graph_passes_every_check(model: bytes, network: ResNet, manifest: pb.Manifest) -> None:
    report = prove_classifier({"model.onnx": model}, network, manifest).report
    assert report.damaged_copy_rejected
    names = [check.name for check in report.checks]
    for batch in (1, 3, 7, 16):
        for how in ("optimised", "not optimised"):
            assert f"model.onnx, batch {batch}, {how}: logits" in names
    assert "model.onnx, batch 16, permuted: logits" in names
    assert "model.onnx, batch 16, rows alone: logits" in names
    logits = [check for check in report.checks if "logits" in check.name]
    assert all(check.bound == pytest.approx(1e-4 * check.max_abs_reference, rel=1e-2) for check in logits)
    assert all(check.identical == check.pictures for check in logits)


def test_damaged_graph_is_refused(model: bytes, network: ResNet, manifest: pb.Manifest) -> None:
    with pytest.raises(ParityFailed, match="exceeds") as failure:
        prove_classifier({"model.onnx": next(damaged_copies(model))}, network, manifest)
    assert failure.value.check is not None
    assert failure.value.check.max_abs_difference > failure.value.check.bound


def test_one_changed_number_is_refused(model: bytes, network: ResNet, manifest: pb.Manifest) -> None:
    proto = onnx.load_model_from_string(model)
    bias = next(weight for weight in proto.graph.initializer if weight.name.endswith("fc.bias"))
    values = numpy_helper.to_array(bias).copy()
    values[3] += 0.01
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    with pytest.raises(ParityFailed, match="batch 1, optimised"):
        prove_classifier({"model.onnx": proto.SerializeToString()}, network, manifest)


def test_check_that_passes_the_damaged_copy_fails_itself(
    model: bytes, network: ResNet, manifest: pb.Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(parity, "damaged_copies", lambda model: [model])
        with pytest.raises(ParityFailed, match="does not detect a damaged copy"):
            prove_classifier({"model.onnx": model}, network, manifest)
    monkeypatch.setattr(parity, "compare_case", lambda name, case, found: [])
    with pytest.raises(ParityFailed, match="does not detect a damaged copy"):
        prove_classifier({"model.onnx": model}, network, manifest)


def test_wrong_normalisation_is_refused(network: ResNet, manifest: pb.Manifest, recipe: pb.ImageInput) -> None:
    other = pb.ImageInput()
    other.CopyFrom(recipe)
    other.mean[0] += 0.01
    with pytest.raises(ParityFailed):
        prove_classifier({"model.onnx": trace_classifier(network, other)}, network, manifest)


def test_wrong_labels_break_the_contract(model: bytes, network: ResNet, manifest: pb.Manifest) -> None:
    other = pb.Manifest()
    other.CopyFrom(manifest)
    other.classifier.labels.append("one more")
    with pytest.raises(ParityFailed, match="contract"):
        prove_classifier({"model.onnx": model}, network, other)


def test_rows_that_see_each_other_are_refused() -> None:
    # y = x + mean over rows: right for the rows together as they were stored, and for nobody else.
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=1),
        helper.make_node("Add", ["x", "mean"], ["y"]),
    ]
    graph = identity_graph(nodes, {"axis": np.array([0], np.int64)})
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with pytest.raises(ParityFailed, match="rows alone"):
        prove_graph("g.onnx", graph, [Case("3 rows", {"x": x}, {"y": x + x.mean(axis=0, keepdims=True)})])


def test_rows_that_know_their_place_are_refused() -> None:
    # y = x * row number: differs as soon as rows are permuted.
    nodes = [
        helper.make_node("CumSum", ["ones", "zero"], ["number"]),
        helper.make_node("Mul", ["x", "number"], ["y"]),
        helper.make_node("Sub", ["x", "x"], ["nothing"]),
        helper.make_node("Add", ["nothing", "one"], ["ones"]),
    ]
    graph = identity_graph(
        [nodes[2], nodes[3], nodes[0], nodes[1]], {"zero": np.array(0, np.int64), "one": np.array(1, np.float32)}
    )
    x = np.ones((3, 4), np.float32)
    with pytest.raises(ParityFailed, match="permuted"):
        prove_graph("g.onnx", graph, [Case("3 rows", {"x": x}, {"y": x * np.array([[1], [2], [3]], np.float32)})])


def test_rule_is_relative_to_the_largest_value() -> None:
    reference_values = np.array([[1000.0, 0.0]], np.float32)
    assert compare("near zero", reference_values, reference_values + 0.09).bound == pytest.approx(0.1, rel=1e-3)
    with pytest.raises(ParityFailed):
        compare("far", reference_values, reference_values + 0.11)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    good = np.ones((2, 2), np.float32)
    broken = good.copy()
    broken[1, 1] = bad
    with pytest.raises(ParityFailed, match="exceeds"):
        compare("graph", good, broken)
    with pytest.raises(ParityFailed, match="PyTorch's own"):
        compare("network", broken, good)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ParityFailed, match="shape"):
        compare("x", np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))


def test_captioner_passes_and_its_damaged_halves_do_not(
    captioner: Captioner, captioner_manifest: pb.Manifest, captioner_model: tuple[bytes, bytes]
) -> None:
    graphs = dict(zip(("encoder.onnx", "decoder.onnx"), captioner_model, strict=True))
    report = prove_captioner(graphs, captioner, captioner_manifest).report
    captions = [check for check in report.checks if check.name.startswith("captions")]
    assert len(captions) == 10
    assert all(check.identical == check.pictures for check in captions)
    for half in ("encoder.onnx", "decoder.onnx"):
        damaged = graphs | {half: next(damaged_copies(graphs[half]))}
        with pytest.raises(ParityFailed, match=re.escape(half)):
            prove_captioner(damaged, captioner, captioner_manifest)


def test_decoder_gives_its_best_tokens_in_order(captioner: Captioner, captioner_model: tuple[bytes, bytes]) -> None:
    session = open_session(captioner_model[1])
    with torch.no_grad():
        state, features, _ = captioner.encode(torch.randn(5, 3, 32, 32))
    feeds = {"token": np.array([1, 4, 5, 6, 7])}
    feeds |= {f"state_{i}": value.numpy() for i, value in enumerate(state)}
    feeds |= {f"feature_{j}": value.numpy() for j, value in enumerate(features)}
    out = session.run(feeds)
    assert out["top_ids"].dtype == np.int64
    assert out["top_ids"].shape == (5, 16)
    assert np.array_equal(np.take_along_axis(out["log_probs"], out["top_ids"], axis=1), out["top_log_probs"])
    assert np.array_equal(-np.sort(-out["log_probs"], axis=1)[:, :16], out["top_log_probs"])
    assert np.allclose(np.exp(out["log_probs"]).sum(axis=1), 1, atol=1e-5)


def a_caption(tokens: list[int], gap: float) -> Caption:
    """A caption whose second best word, one id further, is `gap` behind at each step."""
    log_probs = np.full((len(tokens), 10), -5, np.float32)
    for step, token in enumerate(tokens):
        log_probs[step, token], log_probs[step, token + 1] = -1, -1 - gap
    return Caption(np.array(tokens), log_probs)


def decoded(tokens: list[int]) -> Sequence:
    sequence = Sequence(pb.CaptionerSpec(end_id=9, max_tokens=50), 50)
    sequence.tokens = [Token(token, -1.0) for token in tokens]
    return sequence


def no_drift(captions: list[Caption]) -> list[np.ndarray]:
    return [np.zeros(len(caption.tokens), np.float32) for caption in captions]


def test_a_near_tie_may_go_either_way_and_is_counted() -> None:
    pair = [a_caption([3, 4, 5], gap=5e-5), a_caption([3, 4, 5], gap=1.0)]
    check = compare_captions("captions", pair, [decoded([3, 5, 7, 8]), decoded([3, 4, 5])], no_drift(pair))
    assert (check.pictures, check.identical) == (2, 1)


def test_a_different_word_is_refused() -> None:
    captions = [a_caption([3, 4, 5], gap=2e-4)]
    with pytest.raises(ParityFailed, match="caption 0"):
        compare_captions("captions", captions, [decoded([3, 5, 5])], no_drift(captions))


def test_only_the_first_difference_may_be_a_tie() -> None:
    caption = a_caption([3, 4, 5], gap=1.0)
    caption.step_log_probs[2, 6] = -1.00001
    assert not is_near_tie(caption, [3, 5, 6], np.zeros(3, np.float32))
    assert is_near_tie(caption, [3, 4, 6], np.zeros(3, np.float32))


@pytest.mark.parametrize("tokens", [[3, 4], [3, 4, 5, 6], []])
def test_a_caption_cut_short_or_too_long_is_no_tie(tokens: list[int]) -> None:
    assert not is_near_tie(a_caption([3, 4, 5], gap=1e-6), tokens, np.zeros(3, np.float32))


def test_log_probabilities_count_too() -> None:
    caption = a_caption([3, 4, 5], gap=1.0)
    shifted = replace(caption, step_log_probs=caption.step_log_probs - 0.01)
    with pytest.raises(ParityFailed, match="exceeds"):
        compare_captions("captions", [shifted], [decoded([3, 4, 5])], no_drift([shifted]))


def test_scale_is_that_of_the_whole_distribution() -> None:
    # The words are next to certain; what rounds is the logarithm of a sum that holds the others, at -20.
    caption = Caption(np.array([3, 4]), np.full((2, 10), -20, np.float32))
    caption.step_log_probs[[0, 1], [3, 4]] = -1e-6
    for off, passes in ((1.9e-3, True), (2.1e-3, False)):
        sequence = decoded([3, 4])
        sequence.tokens = [Token(token.id, -1e-6 - off) for token in sequence.tokens]
        if passes:
            check = compare_captions("captions", [caption], [sequence], no_drift([caption]))
            assert check.bound == pytest.approx(2e-3, rel=1e-3)
        else:
            with pytest.raises(ParityFailed, match="exceeds"):
                compare_captions("captions", [caption], [sequence], no_drift([caption]))


def test_reference_stops_each_caption_at_its_own_end(captioner: Captioner, recipe: pb.ImageInput) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    spec = pb.CaptionerSpec(vocabulary=WORDS, start_id=1, end_id=2, max_tokens=9)
    encoded = reference.encode(captioner, images, recipe)
    longest = reference.caption(captioner, encoded, spec)[0].tokens
    spec.end_id = int(longest[1])
    for caption in reference.caption(captioner, encoded, spec):
        ends = np.flatnonzero(caption.tokens == spec.end_id)
        assert len(ends) == 0 or ends.tolist() == [len(caption.tokens) - 1]
        assert len(caption.step_log_probs) == len(caption.tokens) <= 9


@pytest.mark.usefixtures("traced_anew")
def test_same_network_same_bytes(network: ResNet, recipe: pb.ImageInput, model: bytes) -> None:
    assert trace_classifier(network, recipe) == model


@pytest.mark.slow
@pytest.mark.usefixtures("traced_anew")
def test_same_captioner_same_bytes(captioner: Captioner, recipe: pb.ImageInput) -> None:
    assert trace_decoder(captioner, recipe) == trace_decoder(captioner, recipe)
