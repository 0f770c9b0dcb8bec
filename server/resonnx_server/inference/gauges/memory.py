"""Gauges of the memory budget, and of registered shared memory."""

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.memory.budget import Budget
from resonnx_server.memory.regions import Regions
from resonnx_server.observe.series.meaning import Meaning
from resonnx_server.preprocessing.decode import Decoder


class MemoryCollector(Collector):
    """Reads the memory budget, and the registered shared memory, at each scrape, on the event loop."""

    def __init__(self, budget: Budget, decoder: Decoder, regions: Regions) -> None:
        self._budget = budget
        self._decoder = decoder
        self._regions = regions

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        budget, decoder = self._budget, self._decoder
        for name, text, advice, value in (
            (
                "resonnx_memory_budget_bytes",
                "Setting memory_budget_bytes, or its default",
                "Less than the machine could give: a container's limit counts; raise it, or the setting.",
                budget.max_bytes,
            ),
            (
                "resonnx_memory_requests_max_bytes",
                "Part of the budget that is left to requests",
                "Much less than the budget: models' batches take the rest; lower `max_batch_size`.",
                budget.most,
            ),
            (
                "resonnx_memory_batches_bytes",
                "Part of the budget that is kept for models' batches",
                "Large: as `resonnx_memory_requests_max_bytes`.",
                budget.for_batches,
            ),
            (
                "resonnx_memory_requests_bytes",
                "Memory charged to requests: messages, tensors, answers",
                "Near `resonnx_memory_requests_max_bytes`: new requests are refused; send fewer at a time, or raise "
                "the budget.",
                budget.used,
            ),
            (
                "resonnx_memory_unseen_bytes",
                "Memory of the process beyond all charges, counted as used",
                "Grows for days: report it, with the log.",
                budget.unseen,
            ),
            (
                "resonnx_memory_decoding_bytes",
                "Predicted memory of large pictures in decoding",
                "Near the budget: lower `max_image_pixels`, or send smaller pictures.",
                decoder.large_bytes,
            ),
            (
                "resonnx_memory_callers",
                "Callers that hold memory of the budget",
                "Many more than your clients: someone opens connections; see `resonnx_refused_addresses`.",
                budget.callers,
            ),
            (
                "resonnx_shared_memory_regions",
                "Registered regions of system shared memory",
                "Grows: a client does not unregister its regions.",
                len(self._regions),
            ),
            (
                "resonnx_shared_memory_bytes",
                "Sum of these regions, outside the budget",
                "Near `system_shared_memory_bytes`: further regions are refused.",
                self._regions.nbytes,
            ),
        ):
            yield GaugeMetricFamily(name, Meaning(text, advice), value=value)
