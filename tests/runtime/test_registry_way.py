"""Published personas over a way that breaks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.client.carrier import StreamLostError
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.registry import resolve
from runtime.client.relays import RelayCarrier
from runtime.errors import SottoError
from tests.personas.chains import persona_of
from tests.runtime.enclave_world import World
from tests.runtime.persona_world import Stage, stage

pytestmark = pytest.mark.integration


@pytest.fixture
async def one(world: World) -> AsyncIterator[Stage]:
    """One enclave."""
    async with stage(world) as running:
        yield running


class Breaking(RelayCarrier):
    """A way that breaks after so many exchanges."""

    left = 0

    async def open_stream(self, gateway: str) -> Any:
        """One exchange, unless that was the last."""
        self.left -= 1
        if self.left < 0:
            raise StreamLostError("relay_away", "the relay went away")
        return await super().open_stream(gateway)


@pytest.mark.parametrize("exchanges", [0, 1])
async def test_a_way_that_breaks_is_no_defect(one: Stage, tmp_path: Path, exchanges: int) -> None:
    """While the chain is asked for or a piece of the definition, it is said, with its code."""
    await (await one.person()).publish(persona_of(version="1.0.0"))
    home = DeviceHome(tmp_path / "reader")
    carrier = Breaking([one.relay_url])
    carrier.left = exchanges
    try:
        async with Device(home, one.world.policy(), carrier) as device:
            with pytest.raises(SottoError, match="the relay went away; try again") as caught:
                await resolve(device, home, "night-owl")
        assert caught.value.code == "relay_away"
        assert carrier.left == -1
    finally:
        home.close()
