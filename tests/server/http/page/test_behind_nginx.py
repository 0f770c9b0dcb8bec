"""The page below a path of nginx, with the settings of docs/page.md: large pictures pass, and words come one by one."""

import asyncio
import re
import shutil
import socket
from pathlib import Path

import pytest
from PIL import Image

from ....conftest import RunningServer
from .chromium import browser
from .test_browser import picture_of
from .test_flows import OBSERVED

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

_LOCATION = re.compile(r"^location /models/ \{[^}]*\}$", re.MULTILINE)
_SETTINGS = """
daemon off; pid nginx.pid; error_log stderr;
events {}
http {
    access_log off; client_body_buffer_size 2m;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    server { listen 127.0.0.1:PORT; LOCATION }
}
"""


async def _listens(port: int) -> None:
    """Return when somebody takes connections on a port."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def test_the_page_works_below_a_path(
    demo_server: RunningServer, samples: Path, truth: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    found = _LOCATION.search((Path(__file__).parents[4] / "docs/page.md").read_text())
    assert found is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    location = found[0].replace("127.0.0.1:8002", demo_server.http)
    (tmp_path / "nginx.conf").write_text(_SETTINGS.replace("PORT", str(port)).replace("LOCATION", location))
    Image.effect_noise((800, 600), 50).convert("RGB").save(tmp_path / "noise.bmp")
    assert NGINX is not None
    nginx = await asyncio.create_subprocess_exec(NGINX, "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr")
    name, caption = picture_of(truth, "scenes")
    try:
        await asyncio.wait_for(_listens(port), 20)
        async with browser(tmp_path / "profile") as tab:
            await tab.open(f"http://127.0.0.1:{port}/models/")
            await tab.until("!document.querySelector('#picture').hidden")
            # A photograph's size: nginx has a limit of its own.
            assert (tmp_path / "noise.bmp").stat().st_size > 1 << 20
            await tab.drop(tmp_path / "noise.bmp")
            await tab.until("document.querySelectorAll('#labels li').length === 5")
            await tab.evaluate("document.querySelector('.card:not(.chosen) button').click()")
            await tab.until("document.querySelector('#picture-title').textContent.startsWith('Ask scenes')")
            await tab.evaluate(OBSERVED)
            await tab.drop(samples / name)
            await tab.until("document.querySelector('#timing').textContent")
            assert await tab.text("#said") == f"Caption: {caption}"
            assert any(count for count, complete in await tab.evaluate("steps") if not complete)
            assert all(f":{port}/models/" in address for address in tab.requested)
            assert tab.problems == []
    finally:
        nginx.terminate()
        await nginx.wait()
