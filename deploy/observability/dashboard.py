"""Prints the Grafana dashboard, deploy/grafana/dashboards/resonnx.json: `make dashboard`."""

import json
from typing import Any, Final

from deploy.observability.panel import Panel
from deploy.observability.panels import ROWS

_COLUMNS: Final = 24
_HEIGHT: Final = 8
_SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        x, y = 0, y + 1
        for panel in row:
            if x + panel.columns > _COLUMNS:
                x, y = 0, y + _HEIGHT
            place = {"h": _HEIGHT, "w": panel.columns, "x": x, "y": y}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
            x += panel.columns
        y += _HEIGHT
    return {
        "uid": "resonnx",
        "title": "resonnx",
        "description": "Made by `make dashboard` from deploy/observability/panels.py: change it there.",
        "tags": ["resonnx"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_variable("instance", 'up{job="resonnx"}'), _variable("model", "resonnx_model_ready")]},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    table = panel.kind == "table"
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 20}
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "instant": table,
                "range": not table,
                "format": "table" if table else "time_series",
            }
            for number, (legend, expression) in enumerate(panel.queries.items())
        ],
    }
    if table:
        hidden = {"excludeByName": {"Time": True, "Value": True}}
        made["transformations"] = [{"id": "organize", "options": hidden}]
    return made


def _variable(label: str, metric: str) -> dict[str, Any]:
    """A choice of several values of a label, all of them at first."""
    return {
        "type": "query",
        "name": label,
        "label": label,
        "datasource": _SOURCE,
        "query": f"label_values({metric}, {label})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
