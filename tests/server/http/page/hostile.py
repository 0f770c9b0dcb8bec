"""A classifier whose labels and records of its export are markup."""

from pathlib import Path

from google.protobuf import json_format
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import dump_manifest, sha256sums

from ... import answering

MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
ANSWER = 7


def write(folder: Path) -> None:
    """Write a version whose answer is the label MARKUP."""
    files = {name: content for name, content in answering.files(ANSWER).items() if name != "SHA256SUMS"}
    manifest = json_format.Parse(files["manifest.json"], pb.Manifest())
    manifest.classifier.labels[ANSWER] = MARKUP
    manifest.parity.checks.add(name=MARKUP, pictures=1, max_abs_difference=1e-6, bound=1e-4, identical=1)
    manifest.assumptions.add(name="stride", value=MARKUP, option=MARKUP)
    files["manifest.json"] = dump_manifest(manifest)
    files["SHA256SUMS"] = sha256sums(files)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
