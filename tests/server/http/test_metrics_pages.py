"""Pages of metrics are new for five requests a second; beyond, they are the last ones, and not old."""

import asyncio
import time
from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from resonnx_server.http.metrics_pages import MetricsPages
from resonnx_server.observe.exposition import Format, Sight
from resonnx_server.observe.metrics import Metrics

OLD_S = 0.2
SIGHTS = [None, *(Sight(frozenset({str(number)}), "a") for number in range(3))]


class _Made:
    """A metric whose value is the time at which it was read."""

    def __init__(self) -> None:
        self.pages = 0

    def collect(self) -> Iterator[Metric]:
        self.pages += 1
        yield GaugeMetricFamily("made", "When.", value=time.monotonic())


async def _read(pages: MetricsPages, sight: Sight | None = None) -> tuple[bool, float]:
    """Return whether a page is not older than the request, and its age in seconds at the request."""
    asked = time.monotonic()
    page = await pages.page(Format.TEXT, sight, compressed=False)
    (line,) = (line for line in page.decode().splitlines() if line.startswith("made "))
    age = asked - float(line.split()[1])
    return age <= 0, age


def _pages() -> tuple[MetricsPages, _Made]:
    metrics, made = Metrics(), _Made()
    metrics.registry.register(made)
    made.pages = 0
    return MetricsPages(metrics), made


def test_five_requests_get_new_pages_and_more_the_last_until_it_is_old() -> None:
    async def run() -> None:
        pages, made = _pages()
        assert [(await _read(pages))[0] for _ in range(5)] == [True] * 5
        began, ages, asked = time.monotonic(), [], 0
        while time.monotonic() < began + 1.05:
            asked += 1
            ages.append(await _read(pages))
            await asyncio.sleep(0.002)
        assert max(age for _, age in ages) <= OLD_S
        assert made.pages <= 5 + 2 * 6, "5 a second, and those in place of old ones"
        assert asked > 5 * made.pages

    asyncio.run(run())


def test_the_last_page_is_that_of_the_same_rights() -> None:
    async def run() -> None:
        pages, _ = _pages()
        for _ in range(5):
            await pages.page(Format.TEXT, compressed=False)
        for sight in SIGHTS[1:]:
            assert (await _read(pages, sight))[0]

    asyncio.run(run())


def test_requests_at_once_get_one_page() -> None:
    async def run() -> None:
        pages, made = _pages()
        found = await asyncio.gather(*(_read(pages) for _ in range(40)))
        assert all(is_new for is_new, _ in found)
        assert made.pages == 1

    asyncio.run(run())
