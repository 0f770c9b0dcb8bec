"""Prints deploy/prometheus/rules.yml as an object of the Prometheus operator: `make dashboard`."""

import sys
from pathlib import Path

import yaml

_RULES = Path(__file__).resolve().parents[2] / "deploy/prometheus/rules.yml"


def main() -> None:
    """Write deploy/kubernetes/components/monitoring/rules.yaml to standard output."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "resonnx", "labels": {"app.kubernetes.io/name": "resonnx"}},
        "spec": yaml.safe_load(_RULES.read_text()),
    }
    sys.stdout.write("# Made by `make dashboard` from deploy/prometheus/rules.yml: change it there.\n")
    yaml.safe_dump(rule, sys.stdout, sort_keys=False, width=1000)


if __name__ == "__main__":
    main()
