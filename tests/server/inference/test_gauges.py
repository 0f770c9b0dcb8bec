"""Callers are told by names that the operator gave, and by no others."""

from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_server.inference.gauges.models import ServingCollector
from resonnx_server.inference.registry import Models
from resonnx_server.observe.metrics import Metrics
from resonnx_server.observe.stats import ModelStats

SERVED_NS = {"other": 1e9, "key:alice": 2e9, "cert:bob": 4e9}


class _Served(Models):
    """A registry of one model."""

    def __iter__(self) -> Any:
        engine = SimpleNamespace(
            is_paused=False,
            is_unloaded=False,
            comparison_processor_ns=0,
            queued=lambda: 0,
            queued_rows=lambda: 0,
            oldest_wait_ns=lambda: 2_500_000_000,
            served_ns=SERVED_NS.copy,
        )
        yield SimpleNamespace(name="m", version=1, engine=engine, stats=ModelStats(), sessions=())


@pytest.mark.parametrize(
    ("configured", "expected"),
    [(True, {"other": 1.0, "key:alice": 2.0, "cert:bob": 4.0}), (False, {"other": 5.0, "key:alice": 2.0})],
)
def test_certificates_are_callers_if_the_file_of_keys_has_them(configured: bool, expected: dict[str, float]) -> None:
    decoder: Any = SimpleNamespace(waiting=0)
    families = {
        family.name: family for family in ServingCollector(_Served(), decoder, names_certificates=configured).collect()
    }
    samples = families["resonnx_caller_device_seconds"].samples
    assert {sample.labels["caller"]: sample.value for sample in samples} == expected
    (oldest,) = families["resonnx_queue_oldest_seconds"].samples
    assert oldest.value == 2.5


def test_predictions_go_on_when_a_version_is_loaded_again_unless_its_classes_change() -> None:
    metrics, stats = Metrics(), ModelStats()
    first = stats.predictions = metrics.predictions(stats, ["a", "b"])
    assert first is not None
    assert metrics.predictions(stats, ["a", "b"]) is first
    assert metrics.predictions(stats, ["a", "c"]) is not first


def test_predictions_can_be_switched_off_together() -> None:
    metrics = Metrics(predictions=False)
    stats = metrics.model("m", 1)
    stats.predictions = metrics.predictions(stats, ["a", "b"])
    shown = [family.name for family in metrics.registry.collect() if family.samples]
    assert not [name for name in shown if "predict" in name and "run" not in name]
    stats.predictions = Metrics().predictions(stats, ["a", "b"])
    assert stats.predictions is not None
    shown = [family.name for family in metrics.registry.collect() if family.samples]
    assert {name for name in shown if name.startswith("resonnx_prediction")} == {
        "resonnx_prediction_confidence",
        "resonnx_prediction_entropy",
    }
