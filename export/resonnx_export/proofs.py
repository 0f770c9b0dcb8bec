"""What is compared for each task: a classifier's outputs; a captioner's two graphs, and its captions word by word."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.golden import NEAR_TIE
from resonnx_server.runtime.graphs import IMAGE, CaptionerGraphs, ClassifierGraph
from resonnx_server.runtime.greedy import decode_all
from resonnx_server.runtime.images import Pixels
from resonnx_server.runtime.manifest import CLASSIFIER_FILE, DECODER_FILE, ENCODER_FILE
from resonnx_server.runtime.sequence import Sequence as Decoded

from resonnx_export import reference
from resonnx_export.errors import ParityFailed
from resonnx_export.networks import CaptionNetwork, ClassifierNetwork, Encoded
from resonnx_export.parity import BATCH_SIZES, RTOL, Case, compare, open_session, prove_graph
from resonnx_export.progress import Tell
from resonnx_export.recipe import check_pictures
from resonnx_export.reference import Caption


def prove_classifier(
    model: bytes, network: ClassifierNetwork, manifest: pb.Manifest, samples: Sequence[Image.Image], tell: Tell
) -> pb.ParityReport:
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
        answers = reference.classify(network, images, manifest.input, manifest.classifier.activation)
        scale = float(np.abs(answers.probabilities).max())
        if manifest.classifier.activation != pb.ClassifierSpec.ACTIVATION_NONE:
            # Softmax multiplies a probability by at most exp(2 * max|delta logit|); sigmoid's slope is less.
            scale *= max(1.0, 2 * float(np.abs(answers.logits).max()))
        cases.append(Case(f"batch {size}", {IMAGE: images}, vars(answers), {"probabilities": scale}))
    tell("ONNX Runtime's answers")
    return pb.ParityReport(checks=prove_graph(CLASSIFIER_FILE, model, cases), damaged_copy_rejected=True)


def prove_captioner(
    encoder: bytes,
    decoder: bytes,
    network: CaptionNetwork,
    manifest: pb.Manifest,
    samples: Sequence[Image.Image],
    tell: Tell,
) -> pb.ParityReport:
    """Prove encoder.onnx and decoder.onnx, alone and together; arguments and errors as prove_classifier."""
    tell("PyTorch's captions")
    batches = [check_pictures(manifest.input, size, seed=size, samples=samples) for size in BATCH_SIZES]
    encoded = [reference.encode(network, images, manifest.input) for images in batches]
    captions = [reference.caption(network, each, manifest.captioner) for each in encoded]
    tell("ONNX Runtime's encoder")
    encoder_cases = [
        Case(f"batch {len(images)}", {IMAGE: images}, _tensors(each) | _first_word(each))
        for images, each in zip(batches, encoded, strict=True)
    ]
    checks = prove_graph(ENCODER_FILE, encoder, encoder_cases)
    tell("ONNX Runtime's decoder")
    # Each batch at another step, on PyTorch's state; the captions compare the rest.
    decoder_cases = [
        _step_case(network, each, manifest.captioner, min(step, manifest.captioner.max_tokens))
        for step, each in enumerate(encoded, start=1)
    ]
    checks += prove_graph(DECODER_FILE, decoder, decoder_cases)
    tell("ONNX Runtime's captions")
    for optimise in (True, False):
        try:
            graphs = CaptionerGraphs(
                open_session(encoder, optimise=optimise), open_session(decoder, optimise=optimise), manifest
            )
        except ModelRefused as error:
            raise ParityFailed(f"the exported graphs break the contract: {error}") from None
        how = "optimised" if optimise else "not optimised"
        for images, written in zip(batches, captions, strict=True):
            checks.append(_compare_decoded(f"captions, batch {len(images)}, {how}", graphs, images, written, manifest))
        order = np.random.default_rng(0).permutation(len(batches[-1]))
        permuted = [captions[-1][i] for i in order]
        checks.append(_compare_decoded(f"captions, permuted, {how}", graphs, batches[-1][order], permuted, manifest))
    return pb.ParityReport(checks=checks, damaged_copy_rejected=True)


def _tensors(encoded: Encoded) -> dict[str, np.ndarray]:
    named = {f"state_{i}": tensor for i, tensor in enumerate(encoded.state)}
    named.update({f"feature_{j}": tensor for j, tensor in enumerate(encoded.features)})
    return {name: tensor.numpy() for name, tensor in named.items()}


def _first_word(encoded: Encoded) -> dict[str, np.ndarray]:
    return {} if encoded.first_log_probs is None else {"first_log_probs": encoded.first_log_probs.numpy()}


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


def _compare_decoded(
    name: str, graphs: CaptionerGraphs, images: Pixels, written: list[Caption], manifest: pb.Manifest
) -> pb.ParityCheck:
    decoded = decode_all(graphs, images, manifest.captioner)
    return compare_captions(name, written, decoded)


def compare_captions(name: str, reference_captions: Sequence[Caption], decoded: Sequence[Decoded]) -> pb.ParityCheck:
    """Compare captions token by token, and the log-probabilities of those that are identical.

    A caption may differ only from a step on where PyTorch itself had both words within NEAR_TIE; the check's
    `identical` tells how many do not.

    Raises:
        ParityFailed: A caption differs otherwise, or log-probabilities are too far off.
    """
    expected, found, identical = [], [], 0
    for row, (caption, sequence) in enumerate(zip(reference_captions, decoded, strict=True)):
        tokens = [token.id for token in sequence.tokens]
        log_probs = [token.log_prob for token in sequence.tokens]
        if tokens == caption.tokens.tolist():
            identical += 1
        elif not is_near_tie(caption, tokens):
            raise ParityFailed(f"{name}: caption {row} is {tokens}, PyTorch's is {caption.tokens.tolist()}")
        else:
            log_probs = []
        expected += caption.log_probs.tolist()[: len(log_probs)]
        found += log_probs
    # A sure word's log-probability is nearly 0, so that max|reference| alone may ask for more than float32 has.
    check = compare(name, np.array([expected or [0.0]]), np.array([found or [0.0]]), atol=RTOL)
    check.pictures, check.identical = len(reference_captions), identical
    return check


def is_near_tie(caption: Caption, tokens: Sequence[int]) -> bool:
    """Tell whether `tokens` leave the caption at a step where both words were equally good to rounding."""
    for step, (ours, theirs) in enumerate(zip(caption.tokens, tokens, strict=False)):
        if ours != theirs:
            log_probs = caption.step_log_probs[step]
            return bool(abs(log_probs[ours] - log_probs[theirs]) < NEAR_TIE)
    return False
