"""What is compared for each task: a classifier's outputs; a captioner's two graphs, and its captions word by word."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.sequence import Sequence as Decoded
from resonnx_server.runtime.graphs import IMAGE, CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.model_files.golden_examples import NEAR_TIE
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, DECODER_FILE, ENCODER_FILE
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.errors import ParityFailed
from resonnx_export.networks import CaptionNetwork, ClassifierNetwork, Encoded
from resonnx_export.pictures.recipe import check_pictures, sample_rows
from resonnx_export.progress import Progress
from resonnx_export.proof import reference
from resonnx_export.proof.parity import BATCH_SIZES, RTOL, Case, compare, open_session, prove_graph
from resonnx_export.proof.predictions import (
    Answers,
    CaptionerAnswers,
    ClassifierAnswers,
    Pictures,
    Tokens,
    answers_change,
)
from resonnx_export.proof.reference import Caption


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        report: For the manifest.
        answers: Both answers to the pictures that were asked.
        bound: What their differences may be, where they may be greatest.
    """

    report: pb.ParityReport
    answers: Answers
    bound: float


def prove_classifier(
    model: bytes, network: ClassifierNetwork, manifest: pb.Manifest, samples: Sequence[Image.Image], tell: Progress
) -> Proof:
    """Prove model.onnx equal to the network it was traced from.

    Args:
        model: The ONNX file.
        network: Built from the checkpoint, in eval mode.
        manifest: Input and labels.
        samples: Pictures that the model is meant for, where there are any.
        tell: Hears what is being done.

    Raises:
        ParityFailed: Something differs, or the graph breaks its contract.
    """
    try:
        ClassifierGraph(open_session(model), manifest)
    except ModelRefused as error:
        raise ParityFailed(f"the exported graph breaks the contract: {error}") from None
    tell("PyTorch's answers")
    cases = []
    for size in BATCH_SIZES:
        images = check_pictures(manifest.input, size, seed=size, samples=samples)
        classified = reference.classify(network, images, manifest.input, manifest.classifier.activation)
        scale = float(np.abs(classified.probabilities).max())
        if manifest.classifier.activation != pb.ClassifierSpec.ACTIVATION_NONE:
            # Softmax multiplies a probability by at most exp(2 * max|delta logit|); sigmoid's slope is less.
            scale *= max(1.0, 2 * float(np.abs(classified.logits).max()))
        cases.append(Case(f"batch {size}", {IMAGE: images}, vars(classified), {"probabilities": scale}))
    tell("ONNX Runtime's answers")
    proved = prove_graph(CLASSIFIER_FILE, model, cases)
    expected = np.concatenate([case.expected["logits"] for case in cases])
    found = np.concatenate([outputs["logits"] for outputs in proved.found])
    answers = ClassifierAnswers(
        asked_pictures([case.feeds[IMAGE] for case in cases], samples),
        expected,
        found,
        answers_change(expected, found, manifest.classifier.activation),
    )
    bound = max(check.bound for check in proved.checks if check.name.endswith(": logits"))
    return Proof(pb.ParityReport(checks=proved.checks, damaged_copy_rejected=True), answers, bound)


def prove_captioner(
    encoder: bytes,
    decoder: bytes,
    network: CaptionNetwork,
    manifest: pb.Manifest,
    samples: Sequence[Image.Image],
    tell: Progress,
) -> Proof:
    """Prove encoder.onnx and decoder.onnx, alone and together; arguments and errors as prove_classifier."""
    tell("PyTorch's captions")
    batches = [check_pictures(manifest.input, size, seed=size, samples=samples) for size in BATCH_SIZES]
    encoded = [reference.encode(network, images, manifest.input) for images in batches]
    captions = [reference.caption(network, each, manifest.captioner) for each in encoded]
    tell("ONNX Runtime's encoder")
    checks = prove_encoder(encoder, batches, encoded)
    tell("ONNX Runtime's decoder")
    checks += prove_decoder(decoder, network, encoded, manifest.captioner)
    tell("ONNX Runtime's captions")
    compared, written = [], []
    for optimise in (True, False):
        try:
            graphs = CaptionerGraphs(
                open_session(encoder, optimise=optimise), open_session(decoder, optimise=optimise), manifest
            )
        except ModelRefused as error:
            raise ParityFailed(f"the exported graphs break the contract: {error}") from None
        how = "optimised" if optimise else "not optimised"
        for images, expected in zip(batches, captions, strict=True):
            decoded = decode_all(graphs, images, manifest.captioner)
            compared.append(compare_captions(f"captions, batch {len(images)}, {how}", expected, decoded))
            written += decoded if optimise else []
        order = np.random.default_rng(0).permutation(len(batches[-1]))
        permuted = [captions[-1][i] for i in order]
        decoded = decode_all(graphs, batches[-1][order], manifest.captioner)
        compared.append(compare_captions(f"captions, permuted, {how}", permuted, decoded))
    flat = [caption for batch in captions for caption in batch]
    answers = CaptionerAnswers(
        asked_pictures(batches, samples),
        [caption.tokens for caption in flat],
        [tokens_of(sequence) for sequence in written],
        [word_differences(caption, sequence) for caption, sequence in zip(flat, written, strict=True)],
    )
    report = pb.ParityReport(checks=checks + compared, damaged_copy_rejected=True)
    return Proof(report, answers, max(check.bound for check in compared))


def prove_encoder(encoder: bytes, batches: Sequence[Pixels], encoded: Sequence[Encoded]) -> list[pb.ParityCheck]:
    """Prove encoder.onnx: of pictures uint8 [N,H,W,3] a batch, what PyTorch made of each. Raises ParityFailed."""
    cases = [
        Case(f"batch {len(images)}", {IMAGE: images}, _tensors(each) | _first_word(each))
        for images, each in zip(batches, encoded, strict=True)
    ]
    return prove_graph(ENCODER_FILE, encoder, cases).checks


def prove_decoder(
    decoder: bytes, network: CaptionNetwork, encoded: Sequence[Encoded], spec: pb.CaptionerSpec
) -> list[pb.ParityCheck]:
    """Prove decoder.onnx on PyTorch's states: each batch at another step, from 1. Raises ParityFailed."""
    return prove_graph(DECODER_FILE, decoder, step_cases(network, encoded, spec)).checks


def asked_pictures(batches: Sequence[Pixels], samples: Sequence[Image.Image]) -> Pictures:
    """Put batches of check_pictures, uint8 [N,H,W,3] each, together; `samples` are what they were made with."""
    starts = np.cumsum([0, *(len(batch) for batch in batches[:-1])]).tolist()
    typical = [start + row for start, batch in zip(starts, batches, strict=True) for row in sample_rows(len(batch))]
    return Pictures(np.concatenate(batches), "check pictures", tuple(typical) if samples else ())


def _tensors(encoded: Encoded) -> dict[str, np.ndarray]:
    named = {f"state_{i}": tensor for i, tensor in enumerate(encoded.state)}
    named.update({f"feature_{j}": tensor for j, tensor in enumerate(encoded.features)})
    return {name: tensor.numpy() for name, tensor in named.items()}


def _first_word(encoded: Encoded) -> dict[str, np.ndarray]:
    return {} if encoded.first_log_probs is None else {"first_log_probs": encoded.first_log_probs.numpy()}


def step_cases(network: CaptionNetwork, encoded: Sequence[Encoded], spec: pb.CaptionerSpec) -> list[Case]:
    """Return a decoder step of PyTorch for each batch, each at another position, from 1: outputs by tensor name."""
    return [_step_case(network, each, spec, min(step, spec.max_tokens)) for step, each in enumerate(encoded, start=1)]


@torch.no_grad()
def _step_case(network: CaptionNetwork, encoded: Encoded, spec: pb.CaptionerSpec, number: int) -> Case:
    """Take greedy steps with PyTorch; return what the last, step `number` from 1, was given and answered."""
    state, features, first = encoded
    token = torch.full((len(state[0]),), spec.start_id) if first is None else first.argmax(dim=1)
    for _ in range(number):
        given, fed = state, token
        log_probs, state, attention = network.step(token, state, features)
        token = log_probs.argmax(dim=1)
    expected = {"log_probs": log_probs, **{f"next_state_{i}": tensor for i, tensor in enumerate(state)}}
    if attention is not None:
        expected["attention"] = attention
    return Case(
        f"{len(token)} rows, step {number}",
        {"token": fed.numpy(), **_tensors(Encoded(given, features))},
        {name: tensor.numpy() for name, tensor in expected.items()},
    )


def compare_captions(
    name: str, reference_captions: Sequence[Caption], decoded: Sequence[Decoded], *, rtol: float = RTOL
) -> pb.ParityCheck:
    """Compare captions token by token, and the log-probabilities of those that are identical, by `compare`'s rule.

    A caption may differ only from a step on where PyTorch itself had both words within NEAR_TIE; the check's
    `identical` tells how many do not.

    Raises:
        ParityFailed: A caption differs otherwise, or log-probabilities are too far off.
    """
    expected, found, identical = [], [], 0
    for row, (caption, sequence) in enumerate(zip(reference_captions, decoded, strict=True)):
        tokens = tokens_of(sequence).tolist()
        if tokens == caption.tokens.tolist():
            identical += 1
            expected += caption.log_probs.tolist()
            found += [token.log_prob for token in sequence.tokens]
        elif not is_near_tie(caption, tokens):
            raise ParityFailed(f"{name}: caption {row} is {tokens}, PyTorch's is {caption.tokens.tolist()}")
    # Chosen words have log-probabilities next to 0, but rounding is that of the whole distribution that they are of.
    scale = max(float(np.abs(caption.step_log_probs).max()) for caption in reference_captions)
    check = compare(name, np.array([expected or [0.0]]), np.array([found or [0.0]]), scale=scale, rtol=rtol)
    check.pictures, check.identical = len(reference_captions), identical
    return check


def word_differences(caption: Caption, sequence: Decoded) -> reference.Float:
    """Return |delta| of the words' log-probabilities, float32 [T]; nothing where the words differ."""
    if not np.array_equal(tokens_of(sequence), caption.tokens):
        return np.zeros(0, np.float32)
    found = np.array([token.log_prob for token in sequence.tokens], np.float32)
    differences: reference.Float = np.abs(found - caption.log_probs)
    return differences


def tokens_of(sequence: Decoded) -> Tokens:
    """Return what was decoded, int64 [T]."""
    return np.array([token.id for token in sequence.tokens], np.int64)


def is_near_tie(caption: Caption, tokens: Sequence[int]) -> bool:
    """Tell whether `tokens` leave the caption at a step where both words were equally good to rounding."""
    for step, (ours, theirs) in enumerate(zip(caption.tokens, tokens, strict=False)):
        if ours != theirs:
            log_probs = caption.step_log_probs[step]
            return bool(abs(log_probs[ours] - log_probs[theirs]) < NEAR_TIE)
    return False
