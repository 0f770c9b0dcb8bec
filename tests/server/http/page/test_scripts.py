"""What the page's scripts compute, run by Node: rates of an interval, ticks of plots, parts of pictures."""

import json
import math
import shutil
import subprocess
from typing import Any

import pytest
from resonnx_server.http.page.files import _FOLDER

from ....conftest import RunningServer


def run(imports: str, expression: str, given: object = None) -> Any:
    """Return the value of an expression of JavaScript, which finds `given` under that name."""
    if (node := shutil.which("node")) is None:
        pytest.skip("needs Node.js")
    script = f"import {{{imports.partition(' from ')[0]}}} from '{_FOLDER}/{imports.partition(' from ')[2]}';"
    script += f"const given = {json.dumps(given)}; console.log(JSON.stringify({expression} ?? null));"
    done = subprocess.run(
        [node, "--no-warnings", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _page(requests: int, rows: int, buckets: list[tuple[str, int]], model: str = "m") -> str:
    labels = f'model="{model}",version="1"'
    lines = ["# TYPE nv_inference_count counter", f"nv_inference_request_success{{{labels}}} {requests}.0"]
    lines += [f"nv_inference_count{{{labels}}} {rows}.0", 'nv_inference_count{model="m",version="2"} 7']
    lines += [f'resonnx_request_duration_seconds_bucket{{{labels},le="{le}"}} {count}' for le, count in buckets]
    return "\n".join(lines)


def _rates(before: str, after: str, model: str = "m") -> Any:
    imports = "rates, read, keyOf from metrics.js"
    return run(
        imports,
        "rates(read(given[0], 1000), read(given[1], 3000), keyOf(given[2], '1'))",
        [before, after, model],
    )


def test_rates_are_those_of_the_interval() -> None:
    before = _page(10, 20, [("0.001", 10), ("0.01", 10), ("+Inf", 10)])
    after = _page(110, 320, [("0.001", 60), ("0.01", 110), ("+Inf", 110)])
    found = _rates(before, after)
    assert (found["requests"], found["rows"]) == (50, 150)
    assert found["p50"] == pytest.approx(0.001)
    # 49 of the 50 requests of the bucket from 1 to 10 ms.
    assert found["p99"] == pytest.approx(0.001 + 0.009 * 49 / 50)


def test_names_are_read_as_they_are_escaped() -> None:
    name = 'a"}\\ <b>\n7'
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    found = _rates(_page(1, 1, [("+Inf", 1)], escaped), _page(3, 5, [("+Inf", 3)], escaped), name)
    assert (found["requests"], found["rows"], found["p50"]) == (1, 2, 0)


def test_intervals_that_tell_nothing() -> None:
    page = _page(5, 5, [("0.1", 5), ("+Inf", 5)])
    # The server has started again.
    assert _rates(page, _page(1, 1, [("0.1", 1), ("+Inf", 1)])) is None
    assert _rates(page, page, "other") is None
    idle = _rates(page, page)
    assert (idle["requests"], idle["p99"]) == (0, None)


def test_metrics_of_a_real_server_are_read(demo_server: RunningServer) -> None:
    text = demo_server.get("/metrics")[1]
    found = run("read, keyOf from metrics.js", "read(given, 0).versions.get(keyOf('digits', 1))", text)
    assert found["buckets"][-1][1] == found["requests"]
    bounds = [bound for bound, _ in found["buckets"]]
    assert bounds[:-1] == sorted(bounds[:-1])
    assert (bounds[0], bounds[-2], bounds[-1]) == (0.00025, 10, None), "infinity is null in JSON"


def test_axes_have_few_round_steps_up_to_the_largest_value() -> None:
    largest = [0.0007, 0.99, 1, 4, 5, 13, 99, 100, 1e6 + 1]
    for most, found in zip(largest, run("ticks from plot.js", "given.map(ticks)", largest), strict=True):
        assert found[0] == 0
        assert found[-1] >= most * (1 - 1e-9)
        assert 2 <= len(found) <= 6
        digits = found[1] / 10 ** math.floor(math.log10(found[1]) + 1e-9)
        assert round(digits, 6) in (1, 2, 5)


def _cropped(short_side: int, side: int) -> dict[str, object]:
    return {"resize": "short_side_crop", "resize_short_side": short_side, "width": side, "height": side}


def test_the_part_that_the_model_sees() -> None:
    cases = [
        ((640, 480), {"resize": "stretch", "width": 224, "height": 224}, [0, 0, 640, 480]),
        ((640, 480), _cropped(480, 448), [96, 16, 448, 448]),
        ((100, 300), _cropped(50, 50), [0, 100, 100, 100]),
        ((10, 10), None, [0, 0, 10, 10]),
    ]
    given = [[{"width": width, "height": height}, recipe] for (width, height), recipe, _ in cases]
    found = run("boxOf from seen.js", "given.map((each) => boxOf(...each))", given)
    assert [[box[name] for name in ("left", "top", "width", "height")] for box in found] == [box for *_, box in cases]


def test_what_speaks_for_a_label_is_red_and_what_speaks_against_it_blue() -> None:
    against, weakly, nothing, strongly = run("signed from seen.js", "given.map(signed)", [-1, 0.5, 0, 1])
    assert against[2] > 2 * max(against[:2])
    assert strongly[0] > 2 * max(strongly[1:3])
    assert weakly[:3] == strongly[:3]
    assert [nothing[3], weakly[3], against[3]] == [0, strongly[3] / 2, strongly[3]]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("Promise.reject(new TypeError('reset'))", "The server does not answer, or takes no files of 80 MB."),
        ("new Response('<html>nginx</html>', {status: 413, statusText: 'Too Large'})", "HTTP 413 Too Large"),
        ("new Response('no page', {status: 404})", "no page"),
        ('new Response(\'{"error": "too large", "reason": "R"}\', {status: 413})', "too large R"),
    ],
)
def test_why_a_file_is_not_taken_is_told(answer: str, told: str) -> None:
    html = answer.replace("{status: 413, s", "{headers: {'Content-Type': 'text/html'}, status: 413, s")
    asked = f"globalThis.fetch = async () => {html}, await post('p', {{size: 8e7}})"
    assert (
        run(
            "post from api.js",
            f"await (async () => ({asked}))().catch((error) => `${{error.message}} ${{error.reason}}`.trim())",
        )
        == told
    )


def test_numbers_have_three_digits() -> None:
    texts = {0: "0", 0.00012: "1.2e-4", 0.00123: "0.00123", 12.345: "12.3", 123456: "123,000"}
    assert run("number from wording.js", "given.map(number)", list(texts)) == list(texts.values())
