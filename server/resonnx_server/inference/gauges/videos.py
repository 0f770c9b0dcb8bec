"""Metrics of video classifiers: their streams, and the runs after the encoder's, which are counted as any model's."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.inference.registry import Models
from resonnx_server.inference.tasks import VIDEO
from resonnx_server.inference.videos.clips import video_engine
from resonnx_server.observe.series.meaning import Meaning

_LABELS: Final = ("model", "version")
_STAGED: Final = (*_LABELS, "stage")


class VideoCollector(Collector):
    """Reads the video classifiers at each scrape, on the event loop.

    Args:
        models: The registry.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        streams = GaugeMetricFamily(
            "resonnx_video_streams",
            Meaning("Open streams of frames", "Grows without end: clients leave streams open; see max_stream_idle_s."),
            labels=_LABELS,
        )
        runs = CounterMetricFamily(
            "resonnx_video_runs",
            Meaning(
                "Runs after the encoder's; stage is sequence (clips of features) or step (frames of streams)",
                "As many as rows: clips share no runs; there is no load, or their lengths differ much.",
            ),
            labels=_STAGED,
        )
        rows = CounterMetricFamily(
            "resonnx_video_run_rows",
            Meaning(
                "Rows of these runs, without padding: clips, or frames of streams. Frames that were encoded are in "
                "`nv_inference_count`",
                "Rows of step by `resonnx_video_streams` are the frames a second of a stream.",
            ),
            labels=_STAGED,
        )
        seconds = CounterMetricFamily(
            "resonnx_video_run_seconds",
            Meaning("Time of these runs", "Near the time of the encoder's: clips are long, or the encoder is small."),
            labels=_STAGED,
        )
        for model in self._models:
            if model.task is not VIDEO:
                continue
            engine, labels = video_engine(model), (model.name, str(model.version))
            streams.add_metric(labels, engine.streams)
            for stage, stats in engine.later_stages():
                infer_ns = sum(batch.compute_infer.ns for batch in stats.batches.values())
                runs.add_metric((*labels, stage), stats.executions)
                rows.add_metric((*labels, stage), stats.inferences)
                seconds.add_metric((*labels, stage), infer_ns / 1e9)
        yield from (streams, runs, rows, seconds)
