"""Captioners that amplify rounding: equal ones pass, are served and verified; wrong decoders are still refused."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from resonnx import Client
from resonnx_export.cli import app
from resonnx_export.errors import ParityFailed
from resonnx_export.proof.captions import CaptionBatch, caption_batch, caption_batches, compare_captions
from resonnx_export.proof.comparisons import prove_captioner
from resonnx_export.proof.drift import Rounding, permitted_drift
from resonnx_export.proof.golden_examples import captioner_golden
from resonnx_export.proof.parity import RTOL
from resonnx_export.proof.reference import Caption
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.sequence import Sequence, Token
from resonnx_server.runtime.model_files.golden_examples import dump_golden, judge_captions, parse_golden
from resonnx_server.runtime.model_files.manifest import read_version
from safetensors.torch import save_file
from typer.testing import CliRunner

from ...conftest import StartServer
from .drifting import STEPS, WORDS, Drifting


@pytest.fixture(scope="module")
def report(drifting: Drifting) -> pb.ParityReport:
    return prove_captioner(drifting.files, drifting.network, drifting.manifest).report


def changed_decoder(drifting: Drifting, change: Callable[[onnx.ModelProto], None]) -> dict[str, bytes]:
    proto = onnx.load_model_from_string(drifting.files["decoder.onnx"])
    change(proto)
    return drifting.files | {"decoder.onnx": proto.SerializeToString()}


def change_weight(proto: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (weight,) = (weight for weight in proto.graph.initializer if weight.name.endswith(name))
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(weight))), weight.name))


def test_an_equal_captioner_that_drifts_passes(report: pb.ParityReport) -> None:
    captions = [check for check in report.checks if check.name.startswith("captions")]
    assert sum(check.pictures for check in captions) == sum(check.identical for check in captions)
    farthest = max(captions, key=lambda check: check.max_abs_difference)
    # The bound of a single step would refuse it.
    step = next(
        check for check in report.checks if "16 rows" in check.name and check.name.endswith("optimised: log_probs")
    )
    assert farthest.max_abs_difference > 2 * RTOL * step.max_abs_reference
    assert farthest.max_abs_difference <= farthest.drift == farthest.bound < 1


def test_every_step_is_compared_by_the_rule_of_single_steps(report: pb.ParityReport) -> None:
    steps = [check for check in report.checks if f"16 rows, steps 1 to {STEPS}, " in check.name]
    assert {check.name.rpartition(": ")[2] for check in steps} == {
        "log_probs",
        "next_state_0",
        "next_state_1",
        "attention",
    }
    for check in steps:
        assert check.pictures == check.identical == 16 * STEPS or not check.name.endswith("log_probs")
        assert check.bound <= 1.001 * (RTOL * check.max_abs_reference + 1e-7)


def test_golden_captions_have_their_drift(drifting: Drifting, report: pb.ParityReport, recipe: pb.ImageInput) -> None:
    spec, rounding = drifting.manifest.captioner, Rounding.of(report.checks)
    golden = captioner_golden(drifting.network, recipe, spec, (), rounding)
    read = parse_golden(dump_golden(golden), drifting.manifest)
    assert read.drift is not None
    assert np.array_equal(read.drift, golden.drift)
    assert golden.log_probs is not None
    assert golden.tokens is not None
    batch = caption_batch(drifting.network, golden.images, drifting.manifest)
    for caption, drift in zip(batch.captions, read.drift, strict=True):
        assert (caption.margins > 2 * drift[: len(caption.margins)]).all()

    def judged(share: float) -> bool:
        """Return the verdict on captions whose words are off by a share of their drift, or at least by 1e-3."""
        sequences = []
        for caption, drift in zip(batch.captions, read.drift, strict=True):
            off = share * np.maximum(drift[: len(caption.tokens)], 1e-3)
            sequences.append(sequence(caption.tokens.tolist(), (caption.log_probs + off).tolist()))
        return judge_captions(read, sequences, 1e-3).passed

    assert judged(0.99)
    assert read.drift.max() > 1e-3 * np.abs(golden.log_probs).max(), "only then it is stored"
    assert not judged(1.01)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_is_exported_served_and_verified(
    precision: str, drifting: Drifting, tmp_path: Path, start_server: StartServer
) -> None:
    save_file(drifting.network.state_dict(), tmp_path / "m.safetensors")
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    command = ["captioner", "m.safetensors", "--vocab", "words.txt", "--repository", "models", "--name", "m"]
    command = [str(tmp_path / word) if (tmp_path / word).exists() or word == "models" else word for word in command]
    options = ["--size", "32", "--max-tokens", str(STEPS), "--precision", precision]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    told = r" captions identical in the \d+ of \d+ words that can be compared"
    assert re.search(rf"{told}.*, log-probabilities drift by at most .*: only their steps are compared", result.stdout)
    version = tmp_path / "models" / "m" / "1"
    verified = CliRunner().invoke(app, ["verify", str(version), "--checkpoint", str(tmp_path / "m.safetensors")])
    assert verified.exit_code == 0, verified.output
    assert (re.search(told, verified.stdout) is not None) == (precision == "fp32")
    golden = parse_golden(read_version(version).files["golden.npz"])
    with start_server(tmp_path / "models", "--strict") as server, Client(server.grpc) as client:
        assert client.caption(golden.encoded[0].file, "m").captions[0].text


def swap_gates(weight: np.ndarray) -> np.ndarray:
    axis = weight.shape.index(256)
    parts = np.split(weight, 4, axis=axis)
    return np.concatenate([parts[3], *parts[1:3], parts[0]], axis=axis)


@pytest.mark.parametrize(
    "change",
    [lambda weight: weight * np.float32(1.01), swap_gates],
    ids=["1 % off", "gates in another order"],
)
def test_a_wrong_recurrence_is_refused(drifting: Drifting, change: Callable[[np.ndarray], np.ndarray]) -> None:
    files = changed_decoder(drifting, lambda proto: change_weight(proto, "weight_hh", change))
    with pytest.raises(ParityFailed, match=r"decoder\.onnx, 1 rows, step \d+, optimised"):
        prove_captioner(files, drifting.network, drifting.manifest)


def test_a_cell_that_is_limited_only_late_is_refused(drifting: Drifting) -> None:
    batches = caption_batches(drifting.network, drifting.manifest)
    early, late = (max(max_cell(batch, first, last) for batch in batches) for first, last in ((0, 5), (5, STEPS)))
    assert late > early + 1
    limit = np.float32((early + late) / 2)

    def clip(proto: onnx.ModelProto) -> None:
        (node,) = (node for node in proto.graph.node if "next_state_1" in node.output)
        node.output[list(node.output).index("next_state_1")] = "unlimited"
        for name, value in (("least", -limit), ("most", limit)):
            proto.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        proto.graph.node.append(helper.make_node("Clip", ["unlimited", "least", "most"], ["next_state_1"]))

    with pytest.raises(ParityFailed, match=r"step ([6-9]|\d\d), optimised: next_state_1"):
        prove_captioner(changed_decoder(drifting, clip), drifting.network, drifting.manifest)


def test_a_wrong_word_that_is_read_only_late_is_refused(drifting: Drifting) -> None:
    steps = [batch.steps for batch in caption_batches(drifting.network, drifting.manifest)]
    early, late = (
        {token for taken in steps for step in taken[span] for token in step.token.tolist()}
        for span in (slice(0, 5), slice(5, STEPS))
    )
    word = min(late - early)

    def rescale(embedding: np.ndarray) -> np.ndarray:
        changed = embedding.copy()
        changed[word] *= np.float32(1.01)
        return changed

    files = changed_decoder(drifting, lambda proto: change_weight(proto, "embedding.weight", rescale))
    with pytest.raises(ParityFailed, match=r"decoder\.onnx, \d+ rows, step ([6-9]|\d\d), optimised"):
        prove_captioner(files, drifting.network, drifting.manifest)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)


def max_cell(batch: CaptionBatch, first: int, last: int) -> float:
    return max(float(step.stepped.state[1].abs().max()) for step in batch.steps[first:last])


def sequence(tokens: list[int], log_probs: list[float]) -> Sequence:
    made = Sequence(pb.CaptionerSpec(end_id=2, max_tokens=STEPS), STEPS)
    made.tokens = [Token(*pair) for pair in zip(tokens, log_probs, strict=True)]
    return made


def a_caption(second: float) -> Caption:
    """Ten words of log-probability -1; the second best is at `second`."""
    log_probs = np.full((10, 8), -5, np.float32)
    log_probs[:, 3], log_probs[:, 4] = -1, second
    return Caption(np.full(10, 3), log_probs)


def test_drift_is_permitted_where_it_is_explained_only() -> None:
    drift = np.linspace(0, 0.09, 10, dtype=np.float32)
    log_probs = -1 + 0.9 * drift
    assert compare_captions("c", [a_caption(-3)], [sequence([3] * 10, log_probs.tolist())], [drift]).drift == drift[-1]
    for word, far in ((0, 0.09), (5, 0.09), (9, 0.1)):
        off = log_probs.copy()
        off[word] = -1 + far
        with pytest.raises(ParityFailed, match=f"word {word + 1} of caption 0"):
            compare_captions("c", [a_caption(-3)], [sequence([3] * 10, off.tolist())], [drift])


def test_words_may_differ_within_the_drift_only() -> None:
    drift = np.linspace(0, 0.09, 10, dtype=np.float32)
    for step, passes in ((2, False), (9, True)):
        found = sequence([3] * step + [4], [-1.0] * (step + 1))
        if passes:
            check = compare_captions("c", [a_caption(-1.05)], [found], [drift])
            assert (check.pictures, check.identical) == (1, 0)
        else:
            with pytest.raises(ParityFailed, match="caption 0 is"):
                compare_captions("c", [a_caption(-1.05)], [found], [drift])


def test_drift_grows_along_the_caption_and_with_the_rounding(drifting: Drifting) -> None:
    batch = caption_batch(drifting.network, pictures(2), drifting.manifest)

    def drift(rounding: float) -> np.ndarray:
        stepped = {"next_state_0": rounding, "next_state_1": rounding}
        return permitted_drift(
            drifting.network, batch.encoded, batch.captions, drifting.manifest.captioner, Rounding({}, stepped)
        )[0]

    small, large = drift(1e-6), drift(1e-5)
    assert (np.diff(small) >= 0).all()
    assert small[-1] > 10 * small[0] > 0
    assert 3 < large[10] / small[10] < 30
