"""A chaotic captioner: its late words cannot be compared, which the export tells; every step still is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from resonnx_export.errors import ParityFailed
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision.bounds import GREATEST_DEVIATION, measure_captioner
from resonnx_export.precision.fp16 import to_fp16
from resonnx_export.precision.judges import CaptionerJudge
from resonnx_export.proof import reference
from resonnx_export.proof.captions import CaptionBatch, caption_batch, caption_predictions, compare_captions
from resonnx_export.proof.comparisons import prove_decoder, prove_encoder
from resonnx_export.proof.drift import Rounding, comparable_words
from resonnx_export.proof.golden_examples import captioner_golden, cut_note
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.predictions import Pictures
from resonnx_export.tasks.caption import CAPTION
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import MAX_DRIFT, dump_golden, judge_captions, parse_golden

from .drifting import STEPS, Drifting

# A word that no caption has, which the padding is.
OTHER = 0


@dataclass(frozen=True)
class Chaotic(Drifting):
    """A captioner, its captions of seven pictures with their drift, and those of the graphs."""

    batch: CaptionBatch
    decoded: list[Decoded]


@pytest.fixture(scope="module")
def chaotic(drifting: Drifting) -> Chaotic:
    made, spec = drifting, drifting.manifest.captioner
    batch = caption_batch(made.network, check_pictures(made.manifest.input, 7, 5), made.manifest)
    checks = prove_encoder(made.files["encoder.onnx"], [batch]) + prove_decoder(made.files["decoder.onnx"], [batch])
    manifest = pb.Manifest()
    manifest.CopyFrom(made.manifest)
    manifest.parity.checks.extend(checks)
    sessions = [open_session(made.files[f"{name}.onnx"]) for name in ("encoder", "decoder")]
    decoded = decode_all(CaptionerGraphs(*sessions, made.manifest), batch.pictures, spec)
    batch = batch.with_drift(made.network, spec, Rounding.of(checks))
    return Chaotic(made.network, manifest, made.files, batch, decoded)


def with_word(sequences: Sequence[Decoded], row: int, word: int) -> list[Decoded]:
    """Return captions with OTHER in place of one word."""
    changed = list(sequences)
    changed[row] = Decoded(pb.CaptionerSpec(end_id=2, max_tokens=STEPS), STEPS)
    changed[row].tokens = [Token(*each) for each in ((token.id, token.log_prob) for token in sequences[row].tokens)]
    changed[row].tokens[word] = Token(OTHER, -1.0)
    return changed


def test_words_that_rounding_may_move_far_are_not_compared_and_told(chaotic: Chaotic) -> None:
    batch = chaotic.batch
    comparable = [comparable_words(drift) for drift in batch.drift]
    words = [len(caption.tokens) for caption in batch.captions]
    row = int(np.argmax(np.subtract(words, comparable)))
    assert 2 < comparable[row] < words[row] - 1
    check = compare_captions("captions", batch.captions, chaotic.decoded, batch.drift)
    assert check.identical == 7
    assert check.drift <= MAX_DRIFT
    assert check.bound <= MAX_DRIFT
    assert (check.words, check.words_not_compared) == (sum(words), sum(words) - sum(comparable))
    told = CAPTION.summary(pb.ParityReport(checks=[check]))
    assert f"7 of 7 captions identical in the {sum(comparable)} of {sum(words)} words that can be compared" in told
    assert "drift by more than 0.5: only their steps are compared" in told

    manifest = pb.Manifest(captioner=chaotic.manifest.captioner, parity=pb.ParityReport(checks=[check]))
    assert dict(CAPTION.facts(manifest))["Words compared"].startswith(f"{sum(comparable)} of {sum(words)} in captions")

    late = with_word(chaotic.decoded, row, comparable[row])
    assert compare_captions("captions", batch.captions, late, batch.drift).identical == 7
    assert not caption_predictions([batch], late, ()).changed.any()
    early = with_word(chaotic.decoded, row, 1)
    with pytest.raises(ParityFailed, match=f"caption {row} is"):
        compare_captions("captions", batch.captions, early, batch.drift)
    assert caption_predictions([batch], early, ()).changed[row]


@pytest.mark.parametrize("name", ["weight_hh", "embedding.weight"])
def test_a_changed_weight_is_refused_by_the_steps(name: str, chaotic: Chaotic) -> None:
    proto = onnx.load_model_from_string(chaotic.files["decoder.onnx"])
    used = {each for node in proto.graph.node for each in node.input}
    (weight,) = (each for each in proto.graph.initializer if each.name.endswith(name) and each.name in used)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    with pytest.raises(ParityFailed, match=r"decoder\.onnx, 7 rows, step \d+, optimised"):
        prove_decoder(proto.SerializeToString(), [chaotic.batch])


def test_golden_captions_are_beginnings_where_none_is_clear_to_its_end(chaotic: Chaotic, recipe: pb.ImageInput) -> None:
    # Captions that never end: their end token is a word of none.
    manifest = pb.Manifest()
    manifest.CopyFrom(chaotic.manifest)
    spec = manifest.captioner
    spec.end_id = len(spec.vocabulary)
    encoded = reference.encode(chaotic.network, check_pictures(recipe, 32, 1000), recipe)
    said = {token for each in reference.caption(chaotic.network, encoded, spec) for token in each.tokens.tolist()}
    spec.end_id = max(set(range(4, len(spec.vocabulary))) - said)
    rounding = Rounding({}, {"next_state_0": 1e-3, "next_state_1": 1e-3})
    golden = parse_golden(dump_golden(captioner_golden(chaotic.network, recipe, spec, (), rounding)), manifest)
    assert golden.tokens is not None
    lengths = (golden.tokens >= 0).sum(axis=1)
    assert (lengths >= 2).all()
    assert (lengths < STEPS).all()
    (note,) = cut_note(golden, spec)
    assert note.startswith(f"golden captions: the first {lengths.min()} to {lengths.max()} words of {len(lengths)} of ")
    assert CAPTION.predicts(chaotic.network, manifest, golden)

    sessions = [open_session(chaotic.files[f"{name}.onnx"]) for name in ("encoder", "decoder")]
    found = decode_all(CaptionerGraphs(*sessions, manifest), golden.images, spec)
    assert judge_captions(golden, found, 1e-3).passed
    after, last = (with_word(found, 0, int(lengths[0]) - step) for step in (0, 1))
    assert judge_captions(golden, after, 1e-3).passed
    assert not judge_captions(golden, last, 1e-3).passed
    cut = list(found)
    cut[0] = with_word(found, 0, 0)[0]
    cut[0].tokens = found[0].tokens[: int(lengths[0]) - 1]
    assert not judge_captions(golden, cut, 1e-3).passed


def test_reduced_precision_is_measured_at_each_step(chaotic: Chaotic, recipe: pb.ImageInput) -> None:
    network, spec, batch = chaotic.network, chaotic.manifest.captioner, chaotic.batch
    judge = CaptionerJudge(
        network, chaotic.manifest, chaotic.files["decoder.onnx"], Pictures(batch.pictures, "pictures")
    )
    reduced = to_fp16(chaotic.files["encoder.onnx"])
    judgement = judge(reduced)
    assert 0 < judgement.deviation < GREATEST_DEVIATION
    golden, deviation = judge.golden(reduced)
    assert deviation < GREATEST_DEVIATION
    measured = measure_captioner(network, batch.pictures, golden, recipe, spec)
    assert all(0 < each < GREATEST_DEVIATION for of_file in measured.values() for each in of_file.values())
    # On states of their own, the same decoder's words are farther off than any bound.
    encoded = reference.encode(network, batch.pictures, recipe)
    disturbed = encoded._replace(features=tuple(each * (1 + 1e-3) for each in encoded.features))
    followed = reference.follow(network, disturbed, [caption.tokens for caption in batch.captions], spec)
    expected = np.concatenate([caption.log_probs for caption in batch.captions])
    assert np.abs(followed - expected).max() > GREATEST_DEVIATION * np.abs(expected).max()


def test_a_step_whose_state_overflows_is_noticed(chaotic: Chaotic, recipe: pb.ImageInput) -> None:
    class Overflowing:
        def step(self, *inputs: object) -> reference.Stepped:
            stepped = chaotic.network.step(*inputs)  # type: ignore[arg-type]
            return stepped._replace(state=(stepped.state[0], stepped.state[1] * float("inf")))

    batch = chaotic.batch
    words = [caption.tokens for caption in batch.captions]
    exact = reference.follow_steps(chaotic.network, batch.encoded, words, batch.steps)
    assert np.allclose(exact, np.concatenate([caption.log_probs for caption in batch.captions]), atol=1e-5)
    assert np.isnan(reference.follow_steps(Overflowing(), batch.encoded, words, batch.steps)).all()
