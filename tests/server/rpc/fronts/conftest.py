"""A service on either front."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from .service import FRONTS, Handlers, serving


@pytest.fixture(params=[*FRONTS])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Handlers, grpc.aio.Channel, Any]]:
    async with serving(request.param) as parts:
        yield parts


@pytest.fixture
async def core() -> AsyncIterator[tuple[Handlers, grpc.aio.Channel, Any]]:
    async with serving("core") as parts:
        yield parts
