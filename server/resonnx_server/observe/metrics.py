"""The Prometheus registry. Labels come from loaded models and from settings, never from requests."""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from resonnx_server.observe.connections import Connections
from resonnx_server.observe.machine import MachineCollector
from resonnx_server.observe.series.models import ModelCollector
from resonnx_server.observe.series.predictions import Predictions
from resonnx_server.observe.stats import ModelStats

# Unloaded versions whose series are kept, so that counters lose nothing before they are scraped.
_MOST_RETIRED: Final = 256


class Metrics:
    """All metrics of one server.

    Args:
        predictions: Classes, confidence and entropy of classifiers' predictions are counted.

    Attributes:
        connections: What is done about connections of gRPC.
    """

    def __init__(self, *, predictions: bool = True) -> None:
        self._counts_predictions = predictions
        self.registry = CollectorRegistry()
        self._models: dict[tuple[str, str], ModelStats] = {}
        # In the order in which they were unloaded.
        self._retired: dict[tuple[str, str], None] = {}
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(MachineCollector())
        self.connections = Connections()
        self.registry.register(self.connections)
        self.registry.register(ModelCollector(self._models))

    def model(self, name: str, version: int) -> ModelStats:
        """Return the statistics of a version; one that is loaded again goes on counting."""
        key = name, str(version)
        self._retired.pop(key, None)
        return self._models.setdefault(key, ModelStats())

    def predictions(self, stats: ModelStats, classes: Sequence[str]) -> Predictions | None:
        """Return what counts the predictions of a classifier's version; None if they are not counted.

        Args:
            stats: The version's. If it is loaded again with the same classes, it goes on counting.
            classes: Names of the classes, by index.
        """
        names, known = tuple(classes), stats.predictions
        if not self._counts_predictions:
            return None
        return known if known is not None and known.names == names else Predictions(names)

    def retire(self, name: str, version: int) -> None:
        """Note that a version is unloaded. Its series stay until that many others were unloaded after it."""
        self._retired[name, str(version)] = None
        if len(self._retired) > _MOST_RETIRED:
            oldest = next(iter(self._retired))
            del self._retired[oldest], self._models[oldest]

    def models(self) -> dict[tuple[str, int], ModelStats]:
        """Return the statistics of all models by name and version."""
        return {(name, int(version)): stats for (name, version), stats in self._models.items()}
