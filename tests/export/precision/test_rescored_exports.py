"""`--decoder-precision int8-rescored`: proved, told, verified, and served with PyTorch's words."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resonnx import Client
from resonnx_export.answers.captions import network_captions
from resonnx_export.cli import app
from resonnx_export.errors import ParityFailed
from resonnx_export.graphs.trace import trace_decoder
from resonnx_export.networks.captioner import Captioner
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.precision import decoder as quantised_decoder
from resonnx_export.precision import decoder_proof
from resonnx_export.precision.decoder_proof import compare_beams, fresh_batches, prove_rescored
from resonnx_export.precision.rescored import scoring_weights
from resonnx_export.proof import captions as captions_proof
from resonnx_export.proof import parity, reference
from resonnx_export.proof.captions import beam_captions
from resonnx_export.proof.parity import open_session
from resonnx_export.publish import providers
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import parse_golden
from resonnx_server.runtime.model_files.manifest import VersionFiles, dump_manifest, read_version, sha256sums
from resonnx_server.runtime.session import CPU, CUDA, Candidate
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from ...conftest import StartServer
from ..conftest import captioner_with_preferences
from ..report.report_page import page_of
from .rescored_words import OPTION, WORDS

INT8 = pb.PRECISION_INT8


@pytest.fixture(scope="module")
def wide() -> Captioner:
    """A captioner of 200 words."""
    return captioner_with_preferences(len(WORDS), 40)


@pytest.fixture(scope="module")
def checkpoint(wide: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    save_file(wide.state_dict(), path)
    (path.parent / "words.txt").write_text("\n".join(WORDS))
    return path


def export(checkpoint: Path, repository: Path, *options: object) -> Result:
    command = ["captioner", checkpoint, "--vocab", checkpoint.parent / "words.txt", "--repository", repository]
    command += ["--name", "w", "--size", 32, "--max-tokens", 9, *OPTION, *options]
    return CliRunner().invoke(app, [str(each) for each in command])


@pytest.fixture(scope="module")
def version(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version's folder."""
    repository = tmp_path_factory.mktemp("models")
    result = export(checkpoint, repository)
    assert result.exit_code == 0, result.output
    for said in (
        "27 of 27 check pictures captioned as in fp32; with a beam of 5, ",
        "decoder.onnx may run in int8: max|difference| <= ",
        "its 64 best words scored again from fp32 weights, which stay: ",
        "decoder.onnx in int8, a step here: 1 row in ",
    ):
        assert said in result.stdout
    return repository / "w" / "1"


@pytest.fixture(scope="module")
def files(version: Path) -> VersionFiles:
    return read_version(version)


def verify(version: Path, checkpoint: Path) -> Result:
    return CliRunner().invoke(app, ["verify", str(version), "--checkpoint", str(checkpoint)])


def test_manifest_tells_the_precision_and_its_cost(files: VersionFiles) -> None:
    manifest = files.manifest
    assert dict(manifest.stored) == {"decoder.onnx": INT8}
    bounds = {(bound.file, bound.precision): bound.max_deviation for bound in manifest.precisions}
    assert list(bounds) == [("encoder.onnx", pb.PRECISION_FP32), ("decoder.onnx", INT8)]
    greedy, beams = manifest.parity.agreements
    assert (greedy.file, greedy.precision, greedy.asked) == ("decoder.onnx", INT8, "check pictures")
    assert greedy.pictures == greedy.identical == beams.pictures == 27
    assert beams.asked == "check pictures, a beam of 5"
    assert 0 < greedy.max_abs_difference <= greedy.bound / 2
    assert 0 < beams.max_abs_difference <= beams.bound / 2
    assert greedy.bound == pytest.approx(bounds["decoder.onnx", INT8] * greedy.max_abs_reference)
    # Of the decoder that is served, beside those of the one in float32.
    checks = {check.name: check for check in manifest.parity.checks if check.name.startswith("decoder.onnx in int8, ")}
    for how in ("optimised", "not optimised"):
        assert checks[f"decoder.onnx in int8, captions, batch 16, {how}"].identical == 16
        assert checks[f"decoder.onnx in int8, captions, permuted, {how}"].identical == 16
        assert f"decoder.onnx in int8, 7 rows, steps 1 to 9, {how}: next_state_1" in checks
    for output in ("log_probs", "next_state_0", "attention"):
        alone = checks[f"decoder.onnx in int8, 16 rows, step 9, rows alone: {output}"]
        assert alone.max_abs_difference == 0
        assert alone.bound < 1e-2
    assert all(check.max_abs_difference <= check.bound for check in checks.values())


def test_report_tells_it(files: VersionFiles) -> None:
    text = page_of(files).text
    assert "decoder.onnx in int8 (its output layer, with fp32 rescoring of the best words)" in text
    assert "with fp32 rescoring of its 64 best words" in text
    assert "27 check pictures, a beam of 5" in text
    assert "CPUExecutionProvider/int8" in text
    assert "ONNX, decoder in int8" in text
    assert "in floating point" not in text


def captions(network: Captioner, manifest: pb.Manifest, images: np.ndarray) -> list[reference.Caption]:
    return reference.caption(network, reference.encode(network, images, manifest.input), manifest.captioner)


def test_served_words_are_pytorchs(
    version: Path, files: VersionFiles, wide: Captioner, start_server: StartServer
) -> None:
    manifest = files.manifest
    images = check_pictures(manifest.input, 12, seed=77)
    graphs = CaptionerGraphs(*(open_session(files.files[f"{half}.onnx"]) for half in ("encoder", "decoder")), manifest)
    beams = beam_captions(graphs, images, manifest.captioner, 3)
    greedy = captions(wide, manifest, images)
    with start_server(version.parent.parent, "--strict") as server, Client(server.grpc) as client:
        assert "CPUExecutionProvider/int8" in server.log.read_text()
        for image, expected, searched in zip(images, greedy, beams, strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            tokens = [token for token in expected.tokens.tolist() if token > 2]
            assert client.caption(file.getvalue(), "w").captions[0].text == " ".join(WORDS[token] for token in tokens)
            found = client.caption(file.getvalue(), "w", beam_width=3).captions[0]
            assert found.text == " ".join(WORDS[token.id] for token in searched.tokens if token.id > 2)
        assert server.stop() == 0


def test_verify(version: Path, checkpoint: Path, tmp_path: Path) -> None:
    verified = verify(version, checkpoint)
    assert verified.exit_code == 0, verified.output
    for said in (
        "decoder.onnx on CPUExecutionProvider/int8: max|delta|",
        "encoder.onnx equal to PyTorch's: 40 checks passed, damaged copy refused",
        "decoder.onnx with rescored words: 27 of 27 captions identical word by word;",
        "decoder.onnx in int8 against PyTorch in float32, 8 golden pictures: the same captions",
    ):
        assert said in verified.stdout
    # Another decoder, with sums that fit.
    shutil.copytree(version, tmp_path / "1")
    files = read_version(tmp_path / "1")
    _, words = scoring_weights(files.files["decoder.onnx"])
    contents = {**files.files, "decoder.onnx": parity.scaled(files.files["decoder.onnx"], words, np.float32(1.2))}
    contents["manifest.json"] = dump_manifest(files.manifest)
    for name in ("decoder.onnx", "manifest.json"):
        (tmp_path / "1" / name).write_bytes(contents[name])
    (tmp_path / "1" / "SHA256SUMS").write_bytes(sha256sums(contents))
    refused = verify(tmp_path / "1", checkpoint)
    assert refused.exit_code == 1
    assert "of max|log-probability| (bound 0.001)" in refused.stderr


def test_verify_compares_answers(version: Path, wide: Captioner, files: VersionFiles, tmp_path: Path) -> None:
    recipe, spec = files.manifest.input, files.manifest.captioner
    pixels = check_pictures(recipe, 5, seed=3)
    written = [caption.tokens.tolist() for caption in network_captions(wide, pixels, recipe, spec)]

    def verified(tokens: list[list[int]]) -> Result:
        padded = [row + [-1] * (9 - len(row)) for row in tokens]
        np.savez(tmp_path / "a.npz", pixels=pixels, tokens=np.array(padded), device="cpu", dtype="float32")
        return CliRunner().invoke(app, ["verify", str(version), "--expect", str(tmp_path / "a.npz")])

    assert (agrees := verified(written)).exit_code == 0, agrees.output
    assert "5 of 5 greedy captions identical word by word" in agrees.stdout
    differs = verified([written[0], [4], *written[2:]])
    assert differs.exit_code == 1
    assert "the model does not give your answers in a.npz" in differs.stderr
    assert "or export again: resonnx-export captioner wide.safetensors --vocab FILE " in differs.stderr
    assert "--size 32 --stretch " in differs.stderr


@pytest.mark.slow
def test_beside_an_encoder_in_int8(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    int8 = ("--precision", "int8", "--calibration", pictures, "--min-agreement", 10)
    result = export(checkpoint, tmp_path / "models", *int8)
    assert result.exit_code == 0, result.output
    version = tmp_path / "models" / "w" / "1"
    files = read_version(version)
    manifest = files.manifest
    assert dict(manifest.stored) == {"decoder.onnx": INT8, "encoder.onnx": INT8}
    assert [agreement.file for agreement in manifest.parity.agreements] == ["encoder.onnx", *["decoder.onnx"] * 2]
    assert manifest.parity.agreements[1].identical == 27
    verified = verify(version, checkpoint)
    assert verified.exit_code == 0, verified.output
    assert "decoder.onnx with rescored words: 27 of 27" in verified.stdout
    assert "encoder.onnx in int8 against PyTorch in float32" in verified.stdout
    assert "encoder.onnx equal" not in verified.stdout


def test_providers_that_do_not_load_it_are_left_out(files: VersionFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [Candidate(CUDA, INT8), Candidate(CPU, INT8)]
    monkeypatch.setattr(providers, "candidates", lambda *_: both)
    golden = parse_golden(files.files["golden.npz"])
    absent, present = providers.verified_runs(files.files, files.manifest, "decoder.onnx", golden)
    assert absent.graphs is None
    assert present.verdict.passed


def test_few_words_and_other_precisions_are_refused(
    captioner_file: Path, words_file: Path, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copy(words_file, captioner_file.parent / "words.txt")
    few = export(captioner_file, tmp_path / "models")
    assert few.exit_code == 2
    assert "int8-rescored is for vocabularies of more than 64 words" in few.stderr
    unknown = export(checkpoint, tmp_path / "models", "--decoder-precision", "int8")
    assert unknown.exit_code == 2
    assert not (tmp_path / "models").exists()


# The proof can fail.


def test_damaged_decoders_are_refused(files: VersionFiles, wide: Captioner) -> None:
    encoder, decoder = open_session(files.files["encoder.onnx"]), files.files["decoder.onnx"]
    material = fresh_batches(wide, files.manifest)
    scales, words = scoring_weights(decoder)
    for weight in (scales, words, "network.decode_step.weight_hh"):
        damaged = parity.scaled(decoder, weight, np.float32(1.25))
        with pytest.raises(ParityFailed, match="exceeds"):
            prove_rescored(encoder, damaged, wide, files.manifest, material)


def test_words_that_are_not_pytorchs_are_refused(
    files: VersionFiles, wide: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, decoder = open_session(files.files["encoder.onnx"]), files.files["decoder.onnx"]
    decode = captions_proof.decode_all

    def decode_wrongly(*given: object) -> Sequence[object]:
        decoded = decode(*given)
        decoded[0].tokens[0] = decoded[0].tokens[0].__class__(5, 0.0)
        return decoded

    monkeypatch.setattr(captions_proof, "decode_all", decode_wrongly)
    with pytest.raises(ParityFailed, match=r"decoder\.onnx in int8, captions, batch 1, optimised: caption 0 is \[5"):
        prove_rescored(encoder, decoder, wide, files.manifest, fresh_batches(wide, files.manifest))


def test_a_proof_that_passes_a_damaged_copy_fails_itself(
    files: VersionFiles, wide: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, decoder = open_session(files.files["encoder.onnx"]), files.files["decoder.onnx"]
    monkeypatch.setattr(parity, "scaled", lambda model, *_: model)
    with pytest.raises(ParityFailed, match="does not detect a damaged output_int8_scales"):
        prove_rescored(encoder, decoder, wide, files.manifest, fresh_batches(wide, files.manifest))


def test_a_decoder_beyond_its_bound_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_proof, "_ANY_WORD_RTOL", 1e-6)
    result = export(checkpoint, tmp_path / "models")
    assert result.exit_code == 1
    assert "decoder.onnx in int8, 1 rows, step 1, optimised: log_probs: max|difference|" in result.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_beams_that_differ_are_counted_and_told(
    files: VersionFiles, wide: Captioner, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, exact = open_session(files.files["encoder.onnx"]), trace_decoder(wide, files.manifest.input)
    material = fresh_batches(wide, files.manifest)
    same = compare_beams(encoder, exact, exact, files.manifest, material, 3)
    assert same == (27, 0)
    other = parity.scaled(exact, "network.fc.weight", np.float32(0.7))
    identical, _ = compare_beams(encoder, exact, other, files.manifest, material, 3)
    assert identical < 27
    monkeypatch.setattr(quantised_decoder, "compare_beams", lambda *_: (20, 1e-5))
    result = export(checkpoint, tmp_path / "models")
    assert result.exit_code == 0, result.output
    assert "with a beam of 5, 20 of 27" in result.stdout
    written = read_version(tmp_path / "models" / "w" / "1")
    assert written.manifest.parity.agreements[1].identical == 20
    assert "20 (74.1 %)" in page_of(written).text
