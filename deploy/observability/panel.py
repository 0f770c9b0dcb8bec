"""A panel of the dashboard, and expressions that several have."""

from dataclasses import dataclass, field
from typing import Final, Literal

# Grafana replaces them: the chosen models and servers, and a range of at least four scrapes.
MODEL: Final = 'model=~"$model", instance=~"$instance"'
SERVER: Final = 'instance=~"$instance"'
RANGE: Final = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """A panel and its queries.

    Attributes:
        title: Title of the panel.
        description: What its values mean and what to do when they look wrong.
        queries: Legend, in Grafana's template form, to PromQL expression.
        unit: Grafana's name of the unit; "short" is a plain number.
        kind: Kind of the panel.
        columns: Width, of 24.
        stacked: Whether the series are parts of a whole.
    """

    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    columns: int = 8
    stacked: bool = field(default=False, kw_only=True)


def rate(metric: str, labels: str = MODEL, by: str = "model") -> str:
    """Rate of a counter, summed over all other labels."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}[{RANGE}]))"


def mean(metric: str) -> str:
    """Mean of a histogram's observations."""
    return f"{rate(metric + '_sum')} / ({rate(metric + '_count')} > 0)"


def quantile(share: float, metric: str) -> str:
    """Quantile of a histogram's observations."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', by='model, le')})"
