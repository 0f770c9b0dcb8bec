"""The page's files: how they are sent, what they refer to, their markup and their colours. No browser is needed."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from resonnx_server.access.gate import Gate
from resonnx_server.http.page import files
from resonnx_server.http.page.files import page_files
from resonnx_server.http.probes import Probes
from resonnx_server.inference.registry import Models
from resonnx_server.observe.metrics import Metrics

from ..rest.asking_http import Answered, ask

_STATIC = files._FOLDER
_NAMES = sorted(path.name for path in _STATIC.iterdir())
# Elements without an end tag.
_VOID = ("meta", "link", "input", "br", "img")
_LABELLABLE = ("input", "select", "textarea")


def _asked(path: str, *, on: bool = True, closed: bool = False, **headers: str) -> Answered:
    """Ask a server without models for a page."""

    async def served() -> Answered:
        gate = Gate(None, admits_admin=False, needs_certificate=closed)
        probes = Probes(Models(), Metrics(), gate, files=page_files() if on else ())
        try:
            port = await probes.start("127.0.0.1", 0)
            return await asyncio.to_thread(ask, f"127.0.0.1:{port}", path, **headers)
        finally:
            await probes.stop()

    return asyncio.run(served())


def _path(name: str) -> str:
    return "/" if name == "index.html" else f"/page/{name}"


@pytest.mark.parametrize("name", _NAMES)
def test_files_are_sent_with_their_type_and_rules(name: str) -> None:
    answer = _asked(_path(name))
    assert (answer.status, answer.body) == (200, (_STATIC / name).read_bytes())
    kind = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    kind["js"] = "text/javascript; charset=utf-8"
    assert answer.headers["Content-Type"] == kind[name.rpartition(".")[2]]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-cache"
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert {policy[f"{what}-src"] for what in ("script", "style", "connect")} == {"'self'"}
    # A clip that the user chose is shown from memory.
    assert policy["img-src"] == "'self' blob:"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    tag = _asked("/").headers["ETag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    again = _asked("/", If_None_Match=f'"other", W/{tag}')
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    assert _asked("/", If_None_Match='"other"').status == 200


@pytest.mark.parametrize("path", ["/", "/page/main.js"])
def test_without_the_page_there_is_nothing(path: str) -> None:
    answer = _asked(path, on=False)
    assert (answer.status, answer.body) == (404, b"404: Not Found")


def test_without_a_key_there_is_the_page_and_no_data() -> None:
    # Callers need a certificate, as they would need a key.
    assert _asked("/", closed=True).status == 200
    assert _asked("/page/main.js", closed=True).status == 200
    assert _asked("/metrics", closed=True).status == 401


@pytest.mark.parametrize("path", ["/page/", "/page/nothing.js", "/page/..%2ffiles.py", "/page/index.html"])
def test_nothing_else_is_served(path: str) -> None:
    assert _asked(path).status == 404


@pytest.mark.parametrize("name", _NAMES)
def test_files_refer_to_nothing_outside(name: str) -> None:
    text = (_STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//\w|@import|url\(|data:", text.replace("// ", "").replace("/// ", "")), name
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", text)
    used = [_STATIC / each for each in re.findall(r'from "\./([^"]+)"', text)]
    used += [_STATIC / each for each in re.findall(r'(?:href|src)="page/([^"]+)"', text)]
    assert [path.name for path in used if not path.exists()] == []


class _Markup(HTMLParser):
    """Checks that elements are closed in order, and collects what refers to what."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _markup() -> _Markup:
    markup = _Markup()
    markup.feed((_STATIC / "index.html").read_text())
    markup.close()
    assert markup.open == []
    return markup


def test_the_markup_is_complete() -> None:
    elements = _markup().elements
    ids = Counter(str(attributes["id"]) for _, attributes in elements if "id" in attributes)
    assert set(ids.values()) == {1}
    references = [
        name
        for _, attributes in elements
        for key in ("for", "aria-labelledby", "aria-describedby")
        for name in (attributes.get(key) or "").split()
    ]
    assert set(references) - ids.keys() == set()
    assert dict(elements)["html"]["lang"] == "en"
    assert {"title", "main", "h1"} <= {tag for tag, _ in elements}
    assert any(attributes.get("name") == "viewport" for tag, attributes in elements if tag == "meta")
    assert not [attributes for _, attributes in elements if "style" in attributes or "onclick" in attributes]
    scripts = "".join(path.read_text() for path in _STATIC.glob("*.js"))
    assert set(re.findall(r'byId\("([\w-]+)"\)', scripts)) - ids.keys() == set()


def test_what_is_filled_in_is_labelled_and_what_changes_is_announced() -> None:
    markup = _markup()
    labelled = {attributes.get("for") for tag, attributes in markup.elements if tag == "label"}
    fields = [attributes for tag, attributes in markup.elements if tag in _LABELLABLE]
    # A label around its field needs no reference.
    assert {str(each["id"]) for each in fields} - labelled == {"overlay", "play"}
    roles = {str(attributes.get("id")): attributes.get("role") for _, attributes in markup.elements}
    assert [roles[name] for name in ("state", "busy", "said")] == ["status"] * 3
    assert [roles[name] for name in ("problem", "key-problem")] == ["alert"] * 2


def _colours() -> Iterator[tuple[str, dict[str, str]]]:
    light, dark = re.findall(r":root \{(.*?)\}", (_STATIC / "page.css").read_text(), re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    yield "light", found
    yield "dark", found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))


def _luminance(colour: str) -> float:
    """As WCAG 2.2 defines relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "colours"), [*_colours()])
def test_colours_have_the_contrast_of_level_aa(scheme: str, colours: dict[str, str]) -> None:
    texts = ("text", "muted", "accent", "good", "warn", "bad")
    ratios = {(text, back): _contrast(colours[text], colours[back]) for text in texts for back in ("bg", "surface")}
    ratios["on-accent", "accent"] = _contrast(colours["on-accent"], colours["accent"])
    ratios["text", "bar"] = _contrast(colours["text"], colours["bar"])
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}
    # Borders of what can be operated, and lines of plots.
    controls = {
        (name, back): _contrast(colours[name], colours[back]) for name in ("control",) for back in ("bg", "surface")
    }
    assert {pair: ratio for pair, ratio in controls.items() if ratio < 3} == {}


def test_the_files_are_in_the_wheel() -> None:
    listed = (Path(__file__).parents[4] / "server/pyproject.toml").read_text()
    assert '"http/page/static/*"' in listed
    assert {f"/page/{name}" for name in _NAMES} - {page.path for page in page_files()} == {"/page/index.html"}
