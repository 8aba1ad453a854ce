"""Whether the API processes of a server see that one of them hangs."""

import asyncio
import os
from pathlib import Path

import pytest

from image_classifier.inference.heartbeat import Heartbeat

NO_PROCESS = 2**22 + 1  # above the largest process id of Linux


@pytest.mark.parametrize("hangs", [True, False])
def test_a_hung_engine_is_seen_at_once_and_a_dead_process_is_forgotten(
    tmp_path: Path, hangs: bool
) -> None:
    dead = tmp_path / f"heartbeat.{NO_PROCESS}"
    dead.touch()
    os.utime(dead, (0, 0))

    async def run() -> bool:
        heartbeat = Heartbeat(tmp_path, lambda: hangs)
        heartbeat.beat()
        return heartbeat.all_work()

    assert asyncio.run(run()) is not hangs
    if not hangs:
        assert not dead.exists()
