"""Names in lines: alone, with numbers or WordNet's ids beside them, or in a table with a header."""

import csv
import re
from typing import Final

from resonnx_export.class_names.names import FORMS, ClassNames, by_number, in_order
from resonnx_export.errors import BadInput

_SYNSET: Final = re.compile(r"n\d{8}[\s,:]+(\S.*)")
# ImageNet's development kit has an order of its own.
_DEVELOPMENT_KIT: Final = re.compile(r"n\d{8}\s+\d{1,4}\s+\S+")
_NUMBER_FIRST: Final = re.compile(r"\s*(?P<number>\d{1,7})(?P<mark>\s*[:=,;]\s*|\s+|\.\s+|\)\s*)(?P<name>\S.*)")
_NUMBER_LAST: Final = re.compile(r"(?P<name>\S.*?)(?P<mark>\s*[:=,;]\s*|\s+)(?P<number>\d{1,7})\s*")
# With longer lines the patterns would take long.
_LONGEST_LINE: Final = 1000
_LONGEST_PATH: Final = 200
# The folder before each of Places365's categories.
_PLACES: Final = re.compile(r"/[a-z]/(?=\S)")
_YAML_NAMES: Final = re.compile(r"(names|classes|class_names|labels)\s*:.*")
# Items of a list in YAML, and the first line of a list in a program or in TOML.
_YAML_ITEM: Final = re.compile(r"\s*-\s+\S.*")
_ASSIGNED: Final = re.compile(r"\s*[\w.]+\s*(?::[^=]*)?=\s*[\[({].*")
# A comment; "#1" may be a name.
_COMMENT: Final = re.compile(r"\s*(?:#|//)(?:\s.*)?")
# Settings, such as those of darknet's .data files, of which "names" is the path of the list.
_SETTING: Final = re.compile(r"\s*(?P<name>[A-Za-z][\w.-]*)\s*=(?P<value>.*)")
_SECTION: Final = re.compile(r"\s*\[[^\[\]\",']*\]\s*")
# Names as they stand between the brackets of a list.
_QUOTED: Final = re.compile(r"\s*(?P<mark>[\"'])(?P<name>(?:(?!(?P=mark)).)*)(?P=mark)\s*,?\s*")
_TABLES: Final = (".csv", ".tsv")
_YAML: Final = (".yaml", ".yml")
_SEPARATORS: Final = ("\t", ";", ",")
_NUMBER_TITLES: Final = (
    *("id", "index", "idx", "class_id", "label_id", "class_index", "class_idx"),
    *("number", "target", ""),
)
_NAME_TITLES: Final = (
    *("name", "label", "class_name", "label_name", "class", "category"),
    *("names", "labels", "classes", "description", "title"),
)
_TITLES: Final = frozenset((*_NUMBER_TITLES, *_NAME_TITLES, "wnid", "synset", "synset_id", "code"))


def read_lines(text: str, suffix: str) -> ClassNames:
    """Return the names of a text that is neither JSON nor empty.

    Args:
        text: Without a byte order mark.
        suffix: Of the file's name, lower-case, with the dot.

    Raises:
        BadInput: The form is known and not read, or a line is blank.
    """
    lines = re.split(r"\r\n|\r|\n", text.rstrip())
    if suffix in _YAML or any(map(_YAML_NAMES.fullmatch, lines)) or all(map(_YAML_ITEM.fullmatch, lines)):
        raise BadInput(f"is YAML; give {FORMS}")
    if any(map(_ASSIGNED.fullmatch, lines)):
        raise BadInput(f"is a program or a configuration file (NAME = [...]); give {FORMS}")
    _refuse_settings([line for line in lines if line.strip() and not _COMMENT.fullmatch(line)])
    if comment := next((number for number, line in enumerate(lines, 1) if _COMMENT.fullmatch(line)), None):
        raise BadInput(
            f"has a comment in line {comment}, which would be the name of a class: leave comments out; a JSON list "
            "keeps a name that begins so"
        )
    if re.match(r"item\s*\{", lines[0]):
        raise BadInput("is a label map of TensorFlow's object detection (item { ... }), for a detector")
    if lines[0].lstrip().startswith("<"):
        raise BadInput("is an HTML or XML page, not a list of names")
    if blank := next((number for number, line in enumerate(lines, 1) if not line.strip()), None):
        raise BadInput(
            f"does not name every class: line {blank} is blank; give one name a line, in the order of classes"
        )
    if all(map(_DEVELOPMENT_KIT.fullmatch, lines)):
        raise BadInput(
            "is the class list of ImageNet's development kit, whose numbers are not the order in which networks are "
            "trained (that of the sorted ids n01440764, ...)"
        )
    if suffix not in _TABLES and all(matches := [_QUOTED.fullmatch(line) for line in lines]):
        return in_order((match["name"] for match in matches if match), "lines of names in quotes")
    if all(matches := [_SYNSET.fullmatch(line) for line in lines]):
        return in_order((match[1] for match in matches if match), "lines of a WordNet id and a name")
    if (table := _table(lines, named_so=suffix in _TABLES)) is not None:
        return table
    if len(lines) == 1 and "," in text:
        names = (name.strip().strip("\"'") for name in text.split(","))
        return in_order(names, "one line of names with commas between")
    return _numbered(lines) or in_order(lines)


def _refuse_settings(lines: list[str]) -> None:
    """Raise BadInput if all lines are settings or their sections. `0 = cat` and `cat = 0` are numbered names."""
    settings = [_SETTING.fullmatch(line) for line in lines if not _SECTION.fullmatch(line)]
    if not settings or not all(settings):
        return
    numbered = all(match["value"].strip().isdigit() for match in settings if match)
    if numbered and len(settings) == len(lines):
        return
    values = {match["name"]: match["value"].strip() for match in settings if match}
    if "names" in values:
        raise BadInput(
            f"is a configuration file such as darknet's .data: give the list of names that it refers to, "
            f"{values['names'][:_LONGEST_PATH]!r}"
        )
    first = next(iter(values))
    raise BadInput(f"is a configuration file ({first[:_LONGEST_PATH]} = ...); give {FORMS}")


def _numbered(lines: list[str]) -> ClassNames | None:
    """Return the names of lines that all have a number before or after the name; None if the numbers are no classes."""
    if max(map(len, lines)) > _LONGEST_LINE:
        return None
    for pattern, form in (
        (_NUMBER_FIRST, "lines of a number and a name"),
        (_NUMBER_LAST, "lines of a name and a number"),
    ):
        matches = [match for line in lines if (match := pattern.fullmatch(line))]
        if len(matches) < len(lines):
            continue
        pairs = [(int(match["number"]), match["name"]) for match in matches]
        if len({name for _, name in pairs}) == 1:
            # "class 0", "class 1".
            continue
        counted = sorted(number for number, _ in pairs) in (
            list(range(len(lines))),
            list(range(1, len(lines) + 1)),
        )
        # Otherwise the numbers are part of the names: "1 euro", "2 euros", "5 euros"; "boeing 737", "airbus 320".
        if counted or all(match["mark"].strip() for match in matches):
            places = all(_PLACES.match(name) for _, name in pairs)
            return by_number([(number, _PLACES.sub("", name) if places else name) for number, name in pairs], form)
    return None


def _table(lines: list[str], *, named_so: bool) -> ClassNames | None:
    """Return the names of a table with a header, or of numbers and names; None if the lines are none.

    `named_so` says that the file's name is a table's. Raises BadInput if the column of names is not clear.
    """
    if named_so and _is_header([lines[0]]) and not any(each in line for line in lines for each in _SEPARATORS):
        return in_order(lines[1:], f"a table of one column, {lines[0].strip()!r}")
    for separator in _SEPARATORS:
        try:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
        except csv.Error:
            continue
        columns = range(len(rows[0]))
        if len(columns) < 2 or any(len(row) != len(columns) for row in rows):
            continue
        if _is_header(rows[0]) and len(rows) > 1:
            return _with_header(rows)
        if len(columns) == 2 and (numbered := _numbers_of(rows)):
            return by_number(_pairs(rows, numbered[0], 1 - numbered[0]), "a table of numbers and names")
        if named_so and len(rows) > 1:
            raise BadInput(f"is a table of {len(columns)} columns without a header that says which are 'id' and 'name'")
    return None


def _is_header(cells: list[str]) -> bool:
    return any(cells) and all(_title(cell) in _TITLES for cell in cells)


def _title(cell: str) -> str:
    return cell.strip().lower().replace(" ", "_")


def _with_header(rows: list[list[str]]) -> ClassNames:
    titles, body = [_title(cell) for cell in rows[0]], rows[1:]
    listed = ", ".join(rows[0])
    numbered = _numbers_of(body)
    number = next((column for column in numbered if titles[column] in _NUMBER_TITLES), next(iter(numbered), None))
    named = [column for column in range(len(titles)) if column != number and titles[column] in _NAME_TITLES]
    name = min(named, key=lambda column: _NAME_TITLES.index(titles[column]), default=None)
    if name is None:
        raise BadInput(f"is a table with the columns {listed}; none of them is 'name' or 'label'")
    if number is not None:
        return by_number(
            _pairs(body, number, name), f"the columns {rows[0][number]!r} and {rows[0][name]!r} of a table"
        )
    if any(title in _NUMBER_TITLES for title in titles):
        raise BadInput(f"is a table with the columns {listed}; the numbers must be 0 to {len(body) - 1}, each once")
    return in_order((row[name] for row in body), f"the column {rows[0][name]!r} of a table")


def _numbers_of(rows: list[list[str]]) -> list[int]:
    """Return the columns that hold 0 to N-1, each once."""
    expected = {str(number) for number in range(len(rows))}
    return [column for column in range(len(rows[0])) if {row[column] for row in rows} == expected]


def _pairs(rows: list[list[str]], number: int, name: int) -> list[tuple[int, str]]:
    return [(int(row[number]), row[name]) for row in rows]
