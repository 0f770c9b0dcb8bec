"""The entry of a task: everything that verification, publishing and the report need of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden, Verdict
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Session

from resonnx_export.answers.judging import Judged
from resonnx_export.answers.recorded import Answers
from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.proof.comparisons import Proof
from resonnx_export.proof.timing import Run

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Task:
    """One task. Networks, graphs and predictions are of the task's own types.

    Attributes:
        name: The task's name in the server and the client, "classify" and the like.
        model: A model of this task, "classifier" and the like: the manifest's field with its spec.
        kind, spec: The manifest's constant, and the type of the spec.
        values: The name of the values whose differences the report shows.
        outputs: Graph outputs ("" for captions) with one prediction per row, the largest entry.
        recognise: Builds the network that a version was exported from; raises BadInput.
        prove: Compares fp32 graphs with PyTorch on synthetic pictures; raises ParityFailed.
        predicts: Whether golden examples are the network's predictions.
        compare_quantised: Compares a quantised version with PyTorch within its bounds, and yields a line per file;
            raises ParityFailed.
        open: Opens a version's graphs, given a function from file name to session; raises ModelRefused.
        judge: Compares graphs with the golden examples, within a bound of max|reference|.
        batch_run: Returns a function that runs one file of the graphs on pictures uint8 [N,H,W,3], to be timed.
        summary: The result of the comparison with PyTorch in one phrase.
        facts: Terms and descriptions of the spec, for the report.
        prediction: Both predictions for the picture in a row, as the variables of the template prediction_NAME.html.
        answer: The graphs' outputs for pictures uint8 [N,H,W,3], to be compared with the user's answers.
        judge_answers: Compares outputs (of `answer`, or of the network) with the user's answers, within a bound of
            max|answer| if that is wider than theirs; raises BadInput if they are not answers of such a model.
    """

    name: str
    model: str
    kind: pb.Task
    spec: type[Message]
    values: str
    outputs: tuple[str, ...]
    recognise: Callable[[pb.Manifest, Sequence[Path]], tuple[Any, Sequence[SourceFile]]]
    prove: Callable[[Files, Any, pb.Manifest], Proof]
    predicts: Callable[[Any, pb.Manifest, Golden], bool]
    compare_quantised: Callable[[Files, Any, pb.Manifest, Golden], Iterator[str]]
    open: Callable[[Callable[[str], Session], pb.Manifest], Any]
    judge: Callable[[Any, pb.Manifest, Golden, float], Verdict]
    batch_run: Callable[[Any, str, pb.Manifest, Pixels], Run]
    summary: Callable[[pb.ParityReport], str]
    facts: Callable[[pb.Manifest], Iterator[tuple[str, str]]]
    prediction: Callable[[Any, pb.Manifest, int], Mapping[str, Any]]
    answer: Callable[[Any, pb.Manifest, Pixels], Any]
    judge_answers: Callable[[Answers, Any, pb.Manifest, float], Judged]
