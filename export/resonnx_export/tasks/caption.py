"""The task "caption"."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import MAX_DRIFT, Golden, Verdict, judge_captions
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Session

from resonnx_export.answers.captions import graph_captions, judge_words
from resonnx_export.answers.judging import Judged
from resonnx_export.answers.recorded import Answers
from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.layouts.captioners import recognise_captioner, self_critical
from resonnx_export.layouts.captioners.picture_first import RESIDUAL
from resonnx_export.layouts.recognised import Network
from resonnx_export.networks.protocol import CaptionNetwork
from resonnx_export.precision.bounds import quantised_line
from resonnx_export.precision.decoder_proof import fresh_batches, prove_rescored
from resonnx_export.proof import reference
from resonnx_export.proof.captions import caption_batch, caption_batches, caption_predictions
from resonnx_export.proof.comparisons import prove_captioner, prove_decoder, prove_encoder
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.predictions import CaptionerPredictions, same_words
from resonnx_export.proof.reference import Caption, Tokens
from resonnx_export.proof.timing import Run, step_run
from resonnx_export.special_tokens import SpecialTokens
from resonnx_export.tasks.task import Files, Task
from resonnx_export.vocabulary import Vocabulary
from resonnx_export.wording import names, scientific


@dataclass(frozen=True)
class Word:
    """One word, and whether the other caption has another word at its position."""

    text: str
    differs: bool


def _recognise(manifest: pb.Manifest, checkpoint: Sequence[Path]) -> tuple[Network, Sequence[SourceFile]]:
    ruotianluo = manifest.source.layout == self_critical.NAME
    source = recognise_captioner(
        checkpoint,
        Vocabulary(tuple(manifest.captioner.vocabulary)),
        caffe_resnet=manifest.source.architecture.endswith("_caffe") if ruotianluo else None,
        residual=manifest.source.layout.endswith(RESIDUAL),
        tokens=_tokens(manifest.captioner),
        assume=_assumed(manifest),
    )
    return source.recognised.network, source.files


def _assumed(manifest: pb.Manifest) -> dict[str, str]:
    """Return the values of a manifest's network, so that the same network is built again."""
    return {each.name: each.value for each in manifest.assumptions if each.option.startswith("--assume ")}


def _tokens(spec: pb.CaptionerSpec) -> SpecialTokens:
    """Return the tokens of a version, which may have other names than those that are found."""
    start = spec.start_id if spec.HasField("start_id") else next(iter(spec.stripped_ids), spec.end_id)
    return SpecialTokens(spec.vocabulary[start], spec.vocabulary[spec.end_id])


def _predicts(network: CaptionNetwork, manifest: pb.Manifest, golden: Golden) -> bool:
    encoded = reference.encode(network, golden.images, manifest.input)
    captions = reference.caption(network, encoded, manifest.captioner)
    if golden.tokens is None:
        return False
    stored = [row[row >= 0] for row in golden.tokens]
    return all(same_words(ours.tokens, row, len(row)) for ours, row in zip(captions, stored, strict=True))


def _compare_quantised(files: Files, network: CaptionNetwork, manifest: pb.Manifest, golden: Golden) -> Iterator[str]:
    """Compare each file separately as exactly as it promises, then both on the golden examples.

    A quantised encoder promises nothing on other pictures. A rescored decoder promises PyTorch's words on all.
    """
    encoder = open_session(files[ENCODER_FILE])
    if ENCODER_FILE not in manifest.stored:
        checks = prove_encoder(files[ENCODER_FILE], caption_batches(network, manifest))
        yield f"  {ENCODER_FILE} equal to PyTorch's: {len(checks)} checks passed, damaged copy refused"
    if DECODER_FILE in manifest.stored:
        yield _compare_rescored(encoder, files[DECODER_FILE], network, manifest)
    else:
        checks = prove_decoder(files[DECODER_FILE], [caption_batch(network, golden.images, manifest)])
        yield f"  {DECODER_FILE} equal to PyTorch's: {len(checks)} checks passed, damaged copy refused"
    graphs = CaptionerGraphs(encoder, open_session(files[DECODER_FILE]), manifest)
    bounds = [bound for bound in manifest.precisions if bound.file in manifest.stored]
    # The server judges both files together.
    verdict = _judge(graphs, manifest, golden, max(bound.max_deviation for bound in bounds))
    for bound in bounds:
        yield quantised_line(bound, verdict, len(golden.images), "the same captions")


def _compare_rescored(encoder: Session, decoder: bytes, network: CaptionNetwork, manifest: pb.Manifest) -> str:
    batches = fresh_batches(network, manifest)
    checks, decoded, batches = prove_rescored(encoder, decoder, network, manifest, batches)
    changed = caption_predictions(batches, decoded, ()).changed
    same = len(changed) - int(changed.sum())
    ties = ", the others differ at a near-tie" if changed.any() else ""
    return (
        f"  {DECODER_FILE} with rescored words: {same} of {len(changed)} captions identical word by word{ties}; "
        f"{len(checks)} checks passed, damaged copies refused"
    )


def _judge(graphs: CaptionerGraphs, manifest: pb.Manifest, golden: Golden, bound: float) -> Verdict:
    return judge_captions(golden, decode_all(graphs, golden.images, manifest.captioner), bound)


def _batch_run(graphs: CaptionerGraphs, file: str, manifest: pb.Manifest, pictures: Pixels) -> Run:
    if file == DECODER_FILE:
        return step_run(graphs, manifest.captioner, pictures)
    return lambda: graphs.encode(pictures)


def _summary(report: pb.ParityReport) -> str:
    captions = _caption_checks(report)
    pictures, identical = sum(check.pictures for check in captions), sum(check.identical for check in captions)
    ties = f", {pictures - identical} differ at a near-tie" if identical < pictures else ""
    compared, words = _words_compared(report)
    extent, beyond = " word by word", ""
    if compared < words:
        extent = f" in the {compared} of {words} words that can be compared"
        beyond = (
            f", the later words' log-probabilities may drift by more than {MAX_DRIFT:g}: only their steps are compared"
        )
    return f"{identical} of {pictures} captions identical{extent}{ties}{_drift(captions)}{beyond}"


def _words_compared(report: pb.ParityReport) -> tuple[int, int]:
    """Return how many words of PyTorch's captions were compared, and their number."""
    captions = _caption_checks(report)
    words = sum(check.words for check in captions)
    return words - sum(check.words_not_compared for check in captions), words


def _caption_checks(report: pb.ParityReport) -> list[pb.ParityCheck]:
    return [check for check in report.checks if check.name.startswith("captions")]


def _drift(captions: Sequence[pb.ParityCheck]) -> str:
    """Describe the drift of log-probabilities, where it may exceed the bound of a single step."""
    farthest = max(captions, key=lambda check: check.max_abs_difference, default=pb.ParityCheck())
    if farthest.drift < farthest.bound:
        return ""
    return (
        f", log-probabilities drift by at most {scientific(farthest.max_abs_difference)} along the captions "
        f"(the rounding of single steps explains {scientific(farthest.drift)} there)"
    )


def _facts(manifest: pb.Manifest) -> Iterator[tuple[str, str]]:
    spec = manifest.captioner
    how = "greedy" if spec.beam_width <= 1 else f"a beam of {spec.beam_width}"
    yield "Vocabulary", names("words", list(spec.vocabulary))
    yield "Captions", f"{how}, at most {spec.max_tokens} tokens; greedy captions are compared here"
    compared, words = _words_compared(manifest.parity)
    if compared < words:
        yield (
            "Words compared",
            f"{compared} of {words} in captions, all at single steps; rounding may move the log-probabilities of the "
            f"others by more than {MAX_DRIFT:g}",
        )


def _prediction(predictions: CaptionerPredictions, manifest: pb.Manifest, row: int) -> Mapping[str, list[Word]]:
    captions = (predictions.expected[row], predictions.found[row])
    pairs = list(zip_longest(*(_words(tokens, manifest.captioner) for tokens in captions)))
    return {
        "expected": [Word(ours, ours != theirs) for ours, theirs in pairs if ours is not None],
        "found": [Word(theirs, ours != theirs) for ours, theirs in pairs if theirs is not None],
    }


def _words(tokens: Tokens, spec: pb.CaptionerSpec) -> Sequence[str]:
    """Return the words of a caption that a client sees."""
    hidden = {spec.end_id, *spec.stripped_ids}
    return [spec.vocabulary[token] for token in tokens.tolist() if token not in hidden]


def _judge_answers(answers: Answers, captions: Sequence[Caption], manifest: pb.Manifest, bound: float) -> Judged:
    return judge_words(answers, captions, manifest.captioner, least_bound=bound)


CAPTION: Final = Task(
    name="caption",
    model="captioner",
    kind=pb.TASK_CAPTIONER,
    spec=pb.CaptionerSpec,
    values="Log-probabilities of the words",
    outputs=("log_probs", "first_log_probs", ""),
    recognise=_recognise,
    prove=prove_captioner,
    predicts=_predicts,
    compare_quantised=_compare_quantised,
    open=lambda session, manifest: CaptionerGraphs(session(ENCODER_FILE), session(DECODER_FILE), manifest),
    judge=_judge,
    batch_run=_batch_run,
    summary=_summary,
    facts=_facts,
    prediction=_prediction,
    answer=lambda graphs, manifest, pictures: graph_captions(graphs, pictures, manifest.captioner),
    judge_answers=_judge_answers,
)
