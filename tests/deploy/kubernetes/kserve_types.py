"""Checks KServe's objects, YAML files given as arguments, by the classes of its package `kserve`."""

import re
import sys
from typing import Any

import kserve.models as kserve_models
import yaml

import kubernetes.client.models as kubernetes_models

_CONTAINER = re.compile(r"(?:list|dict)[\[(](?:str, ?)?(\w+)[\])]")


def check(value: Any, name: str, path: str) -> None:
    """Raise SystemExit at the first field that the type `name` does not have."""
    if (inner := _CONTAINER.fullmatch(name)) is not None:
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            check(each, inner[1], f"{path}[{key}]")
        return
    kind = getattr(kserve_models, name, None) or getattr(kubernetes_models, name, None)
    if kind is None:
        return
    attributes = {field: attribute for attribute, field in kind.attribute_map.items()}
    for field, each in value.items():
        if field not in attributes:
            raise SystemExit(f"{path}: {name} has no {field}")
        check(each, kind.openapi_types[attributes[field]], f"{path}.{field}")


if __name__ == "__main__":
    for file in sys.argv[1:]:
        with open(file, encoding="utf-8") as text:
            for content in yaml.safe_load_all(text):
                group, version = content["apiVersion"].split("/")
                assert group == "serving.kserve.io"
                check(content, version.capitalize() + content["kind"], content["kind"])
                print(content["kind"], "is sound")
