"""The order in which a server with a runner stops, with a stand-in for circus."""

import asyncio
from typing import Any

from image_classifier.bentoml_compat import let_requests_finish


class Watcher:
    """The processes of one service: they need a moment to end."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self._events = events

    async def _stop(self, close_output_streams: bool) -> None:
        self._events.append(f"{self.name} told")
        await asyncio.sleep(0)
        self._events.append(f"{self.name} ended")


def supervisor_of(events: list[str]) -> Any:
    class Supervisor:
        _stopping = False

        def iter_watchers(self) -> list[Watcher]:
            return [Watcher(name, events) for name in ("service_ModelRunner", "service")]

        async def stop(self) -> None:
            events.append("everything told")

    let_requests_finish(Supervisor)
    return Supervisor()


async def stopped(supervisor: Any, times: int) -> None:
    await asyncio.gather(*(supervisor.stop() for _ in range(times)))


def test_api_processes_have_ended_before_anything_else_is_told() -> None:
    events: list[str] = []

    asyncio.run(stopped(supervisor_of(events), times=1))

    assert events == ["service told", "service ended", "everything told"]


def test_a_second_signal_does_not_hurry_the_first() -> None:
    events: list[str] = []

    asyncio.run(stopped(supervisor_of(events), times=2))

    assert events == ["service told", "service ended", "everything told"]
