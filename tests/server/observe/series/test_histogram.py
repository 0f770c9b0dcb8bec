"""Buckets are cumulative, and keep the latest trace of each."""

from prometheus_client.samples import Exemplar
from resonnx_server.observe.series.histogram import Histogram


def test_a_bucket_keeps_its_latest_trace() -> None:
    histogram = Histogram((1, 2), clock=iter([10.0, 11.0, 12.0]).__next__)
    histogram.observe(0.5, "a")
    histogram.observe(0.7, "b")
    histogram.observe(1.5)
    histogram.observe(9, "c")
    assert histogram.buckets() == [
        ("1.0", 2.0, Exemplar({"trace_id": "b"}, 0.7, 11.0)),
        ("2.0", 3.0),
        ("+Inf", 4.0, Exemplar({"trace_id": "c"}, 9, 12.0)),
    ]
    assert histogram.sum == 11.7


def test_many_values_are_added_to_those_before() -> None:
    histogram = Histogram((1, 2))
    histogram.observe(1)
    histogram.add([1, 0, 2], 8.0)
    assert (histogram.buckets(), histogram.sum) == ([("1.0", 2.0), ("2.0", 2.0), ("+Inf", 4.0)], 9.0)
