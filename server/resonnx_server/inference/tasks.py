"""The tasks of models. A task has the same name in the server, the exporter and the client."""

from dataclasses import dataclass
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb


@dataclass(frozen=True)
class Task:
    """One kind of model.

    Attributes:
        name: Key of the entries of fronts and of repository/.
        kind: The task in manifests and in the task API.
        noun: For error messages, with its article.
    """

    name: str
    kind: pb.Task
    noun: str


CLASSIFY: Final = Task("classify", pb.TASK_CLASSIFIER, "a classifier")
CAPTION: Final = Task("caption", pb.TASK_CAPTIONER, "a captioner")
VIDEO: Final = Task("classify_video", pb.TASK_VIDEO_CLASSIFIER, "a video classifier")
TENSORS: Final = Task("tensors", pb.TASK_TENSORS, "a bare ONNX file")
