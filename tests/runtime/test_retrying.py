"""What a device sends again until it is answered."""

from __future__ import annotations

import logging

import pytest

from runtime.client.retrying import retried
from runtime.errors import SottoError


async def test_whoever_waits_long_is_told_why_and_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not at the first failure, which is over in a moment; and the answer still comes."""
    tries, after_it = 0, 3

    async def ask() -> int:
        nonlocal tries, after_it
        tries += 1
        if caplog.records:
            after_it -= 1
        if after_it:
            raise SottoError("no relay answers", code="relay_away")
        return tries

    with caplog.at_level(logging.WARNING):
        assert await retried(ask, lambda: None) > 4
    assert caplog.messages == ["Trying again, for 60 s in all: no relay answers"]


async def test_what_would_fail_again_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """It is raised as it came."""

    async def ask() -> int:
        raise SottoError("there is no such thing", code="memory_unknown")

    with pytest.raises(SottoError, match="no such thing"):
        await retried(ask, lambda: None)
    assert not caplog.records
