"""The stand-in for API processes: waiting connections are answered, at no cost of a core."""

import asyncio
import errno
import socket
from pathlib import Path

import pytest

from image_classifier.http.stand_in import StandIn


def test_at_the_end_waiting_connections_are_answered_and_further_ones_refused(
    tmp_path: Path,
) -> None:
    async def run() -> list[bytes]:
        with socket.create_server(("127.0.0.1", 0), backlog=20) as listening:
            address = listening.getsockname()
            stand_in = StandIn()
            stand_in.open(listening, tmp_path / "step")
            stand_in.stop()
            await asyncio.sleep(0.01)
            clients = [await asyncio.open_connection(*address) for _ in range(20)]
            for _, writer in clients:
                writer.write(b"POST /classify HTTP/1.1\r\n")

            stand_in.start(for_shutdown=True)
            with listening.dup():  # the runner's
                answering = asyncio.create_task(stand_in.finish())
                answers = [await reader.read() for reader, _ in clients]
                for _, writer in clients:
                    writer.close()
                await answering
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(*address)
        return answers

    answers = asyncio.run(run())

    assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers)
    assert all(b"the service stops; " in answer for answer in answers)


def test_a_stand_in_without_files_left_does_not_take_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def accept_one(_self: object, _listening: object) -> None:
        calls.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            stand_in = StandIn()
            monkeypatch.setattr(StandIn, "_accept_one", accept_one)
            stand_in.open(listening, tmp_path / "step")
            _, writer = await asyncio.open_connection(*listening.getsockname())
            await asyncio.sleep(0.3)
            writer.close()

    asyncio.run(run())

    assert 1 <= len(calls) < 20
