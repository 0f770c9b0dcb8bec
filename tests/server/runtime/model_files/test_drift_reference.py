"""drift.npz: what the exporter wrote, or a refusal that names the fault."""

from dataclasses import replace

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.drift_reference import (
    MOST_BYTES,
    DriftReference,
    drift_fault,
    dump_drift,
    parse_drift,
)

RNG = np.random.default_rng(0)
REFERENCE = DriftReference(
    RNG.standard_normal((6, 2), np.float32),
    RNG.standard_normal((100, 2), np.float32),
    RNG.integers(-1, 5, (100, 4)).astype(np.int32),
)
SAID = pb.DriftReference(pictures=100, features=6, projections=2)
CAPTIONER = pb.Manifest(drift=SAID, captioner=pb.CaptionerSpec(vocabulary="abcde"))
CLASSIFIER = pb.Manifest(drift=SAID, classifier=pb.ClassifierSpec(labels="ab"))


def test_what_is_written_is_read() -> None:
    found = parse_drift(dump_drift(REFERENCE), CAPTIONER)
    assert found.tokens is not None
    for name, value in vars(REFERENCE).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    of_classifier = replace(REFERENCE, tokens=None)
    assert parse_drift(dump_drift(of_classifier), CLASSIFIER).tokens is None


@pytest.mark.parametrize(
    ("reference", "manifest", "why"),
    [
        (replace(REFERENCE, directions=REFERENCE.directions[:5]), CAPTIONER, r"'directions' of shape \[5, 2\]"),
        (replace(REFERENCE, projections=REFERENCE.projections[:99]), CAPTIONER, r"'projections' of shape \[99, 2\]"),
        (replace(REFERENCE, tokens=REFERENCE.tokens + 1), CAPTIONER, "not below the vocabulary's size 5"),
        (replace(REFERENCE, tokens=REFERENCE.tokens - 1), CAPTIONER, "not below the vocabulary's size 5"),
        (replace(REFERENCE, projections=np.full((100, 2), np.nan, np.float32)), CAPTIONER, "not finite"),
        (replace(REFERENCE, tokens=None), CAPTIONER, "has no tokens"),
        (REFERENCE, CLASSIFIER, "'tokens"),
    ],
)
def test_what_does_not_fit_the_manifest_is_refused(reference, manifest, why) -> None:
    with pytest.raises(ModelRefused, match=why):
        parse_drift(dump_drift(reference), manifest)


def test_files_that_are_damaged_or_too_large_are_refused() -> None:
    content = dump_drift(REFERENCE)
    with pytest.raises(ModelRefused, match="is damaged"):
        parse_drift(content[:-20], CAPTIONER)
    with pytest.raises(ModelRefused, match=f"at most {MOST_BYTES}"):
        parse_drift(content + bytes(MOST_BYTES), CAPTIONER)


@pytest.mark.parametrize(
    ("field", "value", "limits"),
    [
        ("pictures", 99, "100..1000"),
        ("pictures", 1001, "100..1000"),
        ("projections", 33, "1..32"),
        ("features", 0, "1.."),
    ],
)
def test_numbers_in_the_manifest_have_limits(field, value, limits) -> None:
    said = pb.DriftReference(pictures=100, features=6, projections=2)
    assert drift_fault(said) is None
    setattr(said, field, value)
    assert f"drift.{field} {value} is not within {limits}" in (drift_fault(said) or "")
