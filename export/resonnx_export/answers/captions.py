"""Compares captions for the recorded pictures with the user's, word by word."""

from collections.abc import Sequence

import numpy as np
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import NEAR_TIE
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.answers.judging import LOOSE, Judged, check_name
from resonnx_export.answers.recorded import PADDING, Answers
from resonnx_export.errors import BadInput
from resonnx_export.networks.protocol import CaptionNetwork, Encoded, Stepped
from resonnx_export.proof import reference
from resonnx_export.proof.reference import Caption

# Stands for a word that the vocabulary does not have.
_UNKNOWN = -2


def network_captions(
    network: CaptionNetwork, pixels: Pixels, recipe: pb.ImageInput, spec: pb.CaptionerSpec
) -> list[Caption]:
    """Return PyTorch's greedy captions of pictures uint8 [N,H,W,3]."""
    return reference.caption(network, reference.encode(network, pixels, recipe), spec)


class _GraphNetwork:
    """Steps of ONNX graphs on tensors, as a CaptionNetwork's."""

    def __init__(self, graphs: CaptionerGraphs) -> None:
        self._graphs = graphs

    def step(self, token: torch.Tensor, state: tuple[torch.Tensor, ...], features: tuple[torch.Tensor, ...]) -> Stepped:
        arrays, read = ([each.numpy() for each in tensors] for tensors in (state, features))
        stepped = self._graphs.step(token.numpy(), arrays, read, log_probs=True)
        assert stepped.log_probs is not None
        return Stepped(torch.from_numpy(stepped.log_probs), tuple(map(torch.from_numpy, stepped.state)))


def graph_captions(graphs: CaptionerGraphs, pixels: Pixels, spec: pb.CaptionerSpec) -> list[Caption]:
    """Return the greedy captions of ONNX graphs, with the distribution of each step."""
    state, features, first = graphs.encode(pixels)
    encoded = Encoded(
        tuple(map(torch.from_numpy, state)),
        tuple(map(torch.from_numpy, features)),
        None if first is None else torch.from_numpy(first),
    )
    return reference.caption(_GraphNetwork(graphs), encoded, spec)


def judge_words(
    answers: Answers, captions: Sequence[Caption], spec: pb.CaptionerSpec, least_bound: float = 0.0
) -> Judged:
    """Compare captions with the answers' words; special tokens are not compared.

    Words may differ from a step on at which the scores of both are within a margin: NEAR_TIE for answers in fp32 on a
    CPU, otherwise LOOSE (or `least_bound`, if that is greater) of max|log-probability|. Raises BadInput if the answers
    are no captions, or have tokens that the vocabulary does not have.
    """
    if answers.kind == "logits":
        raise BadInput(f"{answers.name} holds logits; a captioner is compared by tokens or captions")
    largest = max(float(np.abs(caption.step_log_probs).max()) for caption in captions)
    margin = max(NEAR_TIE if answers.exact else LOOSE * largest, least_bound * largest)
    identical, ties, shares, shown = 0, [], [], ""
    for row, (caption, (theirs, ended)) in enumerate(zip(captions, _recorded(answers, spec), strict=True)):
        same, behind = _compared(caption, theirs, spec, ended=ended)
        shares.append(same)
        if same == 1:
            identical += 1
        elif behind <= margin:
            ties.append(behind)
            shares[-1] = 1.0
        elif not shown:
            ours = _visible(caption.tokens.tolist(), spec)
            shown = f"; picture {row}: {_text(ours, spec)!r}, yours {_text(theirs, spec)!r}"
    passed = identical + len(ties) == len(captions)
    check = pb.ParityCheck(
        name=check_name(answers),
        pictures=len(captions),
        max_abs_difference=max(ties, default=0.0),
        max_abs_reference=largest,
        bound=margin,
        identical=identical,
    )
    detail = f"{identical} of {len(captions)} greedy captions identical word by word"
    detail += f", {len(ties)} differ at a near-tie" if ties else ""
    return Judged(check, passed, 1 - float(np.mean(shares)), detail + shown)


def _recorded(answers: Answers, spec: pb.CaptionerSpec) -> list[tuple[list[int], bool]]:
    """Return the words of each recorded caption as tokens, and whether it had ended."""
    size = len(spec.vocabulary)
    if answers.tokens is None:
        ids = {word: token for token, word in enumerate(spec.vocabulary)}
        rows = [[ids.get(word, _UNKNOWN) for word in text.split()] for text in answers.captions]
        return [(_words(row, spec), True) for row in rows]
    if answers.tokens.max() >= size:
        raise BadInput(f"{answers.name}: tokens holds {answers.tokens.max()}, and the vocabulary has {size} words")
    found: list[tuple[list[int], bool]] = []
    for row in answers.tokens.tolist():
        tokens = [token for token in row if token != PADDING]
        ended = len(tokens) < len(row) or spec.end_id in tokens
        words = _words(tokens, spec)
        if not words and not ended:
            raise BadInput(
                f"{answers.name}: tokens {tokens} of picture {len(found)} hold no word; record whole captions"
            )
        found.append((words, ended))
    return found


def _words(tokens: list[int], spec: pb.CaptionerSpec) -> list[int]:
    """Return the visible tokens; a start token, which may be the end token too, can come first."""
    start = {spec.start_id} if spec.HasField("start_id") else set(spec.stripped_ids)
    if len(tokens) > 1 and tokens[0] in start:
        tokens = tokens[1:]
    return _visible(tokens, spec)


def _visible(tokens: Sequence[int], spec: pb.CaptionerSpec) -> list[int]:
    visible = []
    for token in map(int, tokens):
        if token == spec.end_id:
            break
        if token not in spec.stripped_ids:
            visible.append(token)
    return visible


def _compared(caption: Caption, theirs: list[int], spec: pb.CaptionerSpec, *, ended: bool) -> tuple[float, float]:
    """Return the share of a caption's words before the first other one, and how far the user's word is behind there."""
    shown = [step for step, token in enumerate(caption.tokens) if token not in {spec.end_id, *spec.stripped_ids}]
    ours = [int(caption.tokens[step]) for step in shown]
    if ours == theirs or (not ended and ours[: len(theirs)] == theirs):
        return 1.0, 0.0
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    step = shown[place] if place < len(shown) else len(caption.tokens) - 1
    other = theirs[place] if place < len(theirs) else spec.end_id
    scores = caption.step_log_probs[step]
    behind = float(scores.max() - scores[other]) if other != _UNKNOWN else float("inf")
    if place == len(ours) and caption.tokens[-1] != spec.end_id:
        # The export's limit of words is lower.
        behind = float("inf")
    return place / max(len(ours), len(theirs)), behind


def _text(tokens: Sequence[int], spec: pb.CaptionerSpec) -> str:
    return " ".join(spec.vocabulary[token] if token >= 0 else "(not in the vocabulary)" for token in tokens)
