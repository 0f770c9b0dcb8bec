"""A reader of metrics pages by the letter of their formats, which shares nothing with prometheus_client's."""

import re
from dataclasses import dataclass, field

Labels = frozenset[tuple[str, str]]

_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")
_EXEMPLAR = re.compile(r"(\w+_bucket\{.*\} \S+) # \{trace_id=\"[0-9a-f]{32}\"\} (\S+) \d+\.\d{3}")
_COMMENT = re.compile(rf"# (HELP|TYPE) ({_NAME}) (.+)")
# What a family's samples end with beyond its name.
_SUFFIXES = {
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}
_TEXT = {**_SUFFIXES, "counter": ("",), "untyped": ("",)}
_OPENMETRICS = {**_SUFFIXES, "counter": ("_total",), "unknown": ("",), "info": ("_info",)}


@dataclass
class Family:
    """One family: its type, its help, and the values of its samples by name and labels."""

    kind: str
    documentation: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


def read(page: str, *, openmetrics: bool) -> dict[str, Family]:
    """Return a page's families by name. Raises ValueError with the line that breaks the format."""
    *lines, last = page.split("\n")
    if last or (openmetrics and lines.pop() != "# EOF"):
        raise ValueError("the page does not end as it must")
    suffixes = _OPENMETRICS if openmetrics else _TEXT
    families: dict[str, Family] = {}
    helped, name = "", ""
    for line in lines:
        if comment := _COMMENT.fullmatch(line):
            what, of, text = comment.groups()
            if what == "HELP":
                helped, documentation = of, text
                continue
            if of != helped or of in families or text not in suffixes:
                raise ValueError(line)
            name, families[of] = of, Family(text, documentation)
            continue
        if openmetrics and (example := _EXEMPLAR.fullmatch(line)):
            line = example[1]
        sample = _SAMPLE.fullmatch(line)
        if sample is None or name != helped:
            raise ValueError(line)
        family = families[name]
        if sample[1] not in {name + suffix for suffix in suffixes[family.kind]}:
            raise ValueError(line)
        pairs = re.findall(_LABEL, sample[2] or "")
        key = sample[1], frozenset((label, _unescaped(value)) for label, value in pairs)
        if key in family.samples or len(dict(pairs)) != len(pairs):
            raise ValueError(line)
        family.samples[key] = float(sample[sample.re.groups])
    for family in families.values():
        if family.kind == "histogram":
            _check_histogram(family)
    return families


def _check_histogram(family: Family) -> None:
    buckets: dict[Labels, list[tuple[float, float]]] = {}
    for (name, labels), value in family.samples.items():
        if name.endswith("_bucket"):
            (bound,) = (text for label, text in labels if label == "le")
            buckets.setdefault(labels - {("le", bound)}, []).append((float(bound), value))
    for labels, counts in buckets.items():
        (count,) = (value for (name, of), value in family.samples.items() if of == labels and name.endswith("_count"))
        if counts != sorted(counts) or [n for _, n in counts] != sorted(n for _, n in counts):
            raise ValueError(f"buckets of {labels} are not cumulative")
        if counts[-1] != (float("inf"), count):
            raise ValueError(f"{labels}: the last bucket holds not all")


def _unescaped(value: str) -> str:
    return re.sub(r'\\(["\\n])', lambda match: "\n" if match[1] == "n" else match[1], value)
