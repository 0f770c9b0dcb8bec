"""The values of the dashboard's panels and of the recording rules, from a Prometheus: needs the standard library only.

    python -m deploy.observability.values http://localhost:9090

The exit status is 1 if a panel of the first row, the server's health, has none.
"""

import json
import sys
import urllib.parse
import urllib.request
from typing import Any, Final

from deploy.observability.panels import ROWS

# Grafana's choices and ranges, for all models, and a load that has just begun.
_VARIABLES: Final = {"$model": ".*", "$instance": ".*", "$__rate_interval": "30s"}


def main(prometheus: str) -> int:
    """Print each panel of the Prometheus at a URL with its value; return the exit status."""
    missing = print_panels(prometheus)
    queries = sum(len(panel.queries) for panels in ROWS.values() for panel in panels)
    print(f"\n{queries - len(missing)} of {queries} queries have a value")
    return 1 if any(name.startswith(f"{next(iter(ROWS))} /") for name in missing) else 0


def print_panels(prometheus: str) -> list[str]:
    """Print each query's values; return the panels without any."""
    missing = []
    for row, panels in ROWS.items():
        print(f"\n{row}")
        for panel in panels:
            for legend, expression in panel.queries.items():
                values = _values(prometheus, expression)
                name = f"{panel.title} ({legend})" if len(panel.queries) > 1 else panel.title
                print(f"  {name:58} {_told(values)}")
                if not values:
                    missing.append(f"{row} / {name}: {expression}")
    return missing


def print_rules(prometheus: str) -> list[str]:
    """Print the recorded series and the state of each alert; return the rules that have failed or have no data."""
    missing = []
    print("\nRecorded by rules.yml")
    for group in _get(prometheus, "rules")["groups"]:
        for rule in group["rules"]:
            if rule["type"] == "recording":
                values = _values(prometheus, rule["name"])
                print(f"  {rule['name']:58} {_told(values)}")
            else:
                values = {"state": 0.0}
                print(f"  {rule['name']:58} {rule['state']}")
            if rule["health"] != "ok" or not values:
                missing.append(f"rule {rule['name']}: {rule.get('lastError') or rule['query']}")
    return missing


def _values(prometheus: str, expression: str) -> dict[str, float]:
    """Return value by labels of an instant query; NaN, the quotient of nothing, is no value."""
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    result = _get(prometheus, "query?" + urllib.parse.urlencode({"query": expression}))["result"]
    values = {
        " ".join(
            value for label, value in each["metric"].items() if label not in ("__name__", "job", "instance")
        ): float(each["value"][1])
        for each in result
    }
    return {labels: value for labels, value in values.items() if value == value}


def _told(values: dict[str, float]) -> str:
    shown = [f"{labels} {value:.3g}".strip() for labels, value in sorted(values.items())[:4]]
    return ", ".join(shown) + (f" and {len(values) - 4} more" if len(values) > 4 else "") or "no data"


def _get(prometheus: str, path: str) -> Any:
    with urllib.request.urlopen(f"{prometheus}/api/v1/{path}", timeout=10) as answer:  # noqa: S310 (our own address)
        return json.load(answer)["data"]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
