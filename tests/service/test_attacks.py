"""What an attacker tries through the ports, the headers and the log (docs/security.md)."""

import io
import pickle
import stat
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.imports import SAMPLES
from tests.service.answers import checked_error
from tests.service.server import Server

GOOD = (SAMPLES / "7-01.png").read_bytes()


class Touch:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "content_type", ["application/vnd.bentoml+pickle", "application/octet-stream"]
)
def test_a_pickled_body_is_not_unpickled(either: Server, content_type: str, tmp_path: Path) -> None:
    mark = tmp_path / "unpickled"
    body = pickle.dumps({"image": Touch(mark)})

    for path in ("/classify", "/v2/models/digits/infer", "/infer", "/prepare"):
        answer = either.client.post(path, content=body, headers={"content-type": content_type})
        assert answer.status_code in (404, 405, 415), path

    assert not mark.exists()


def sockets_of(process_id: int) -> set[str]:
    """Inodes of the sockets a process has open."""
    inodes = set()
    for entry in Path(f"/proc/{process_id}/fd").iterdir():
        target = str(entry.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return inodes


def test_one_port_is_open_and_the_runners_socket_is_private(through_runner: Server) -> None:
    inodes: set[str] = set()
    for process_id in (through_runner.process.pid, *through_runner.workers()):
        inodes |= sockets_of(process_id)

    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:  # listening
                ports.add(int(columns[1].rpartition(":")[2], 16))
    paths = [
        Path(columns[7])
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if len(columns := line.split()) == 8 and columns[6] in inodes
    ]

    assert ports == {through_runner.port}
    assert paths
    for path in paths:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path


def test_nothing_a_client_sends_makes_a_metric_series(embedded: Server) -> None:
    before = embedded.metrics().keys()

    for i in range(50):
        for folder in ("", "/static_content", "/classify", "/metrics"):
            embedded.client.get(f"{folder}/made-up-{i}")
        embedded.client.request(f"METHOD{i}", "/classify")
        embedded.client.post(
            f"/classify?made_up={i}", content=GOOD, headers={"x-request-id": f"id-{i}"}
        )

    assert embedded.metrics().keys() == before


def test_a_client_writes_no_line_of_the_log(embedded: Server) -> None:
    forged = "forged 2026-01-01 [INFO] all is well"
    form = (
        f'--b\r\nContent-Disposition: form-data; name="image"; filename="a%0A{forged}"\r\n\r\n'
        f"x\r\n--b--\r\n"
    )

    embedded.client.get(f"/%0A{forged}")
    embedded.client.get("/model", headers={"x-request-id": f"a\t{forged}"})
    embedded.raw(
        b"GET /model\x0b\x0c HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x85"
        + forged.encode()
        + b"\r\nConnection: close\r\n\r\n"
    )
    embedded.client.post(
        "/classify", content=form, headers={"content-type": "multipart/form-data; boundary=b"}
    )

    assert forged not in embedded.log


def png(width: int, height: int) -> bytes:
    """A black grey-scale PNG: its data shrink a thousandfold."""
    file = io.BytesIO()

    def chunk(kind: bytes, data: bytes) -> None:
        file.write(len(data).to_bytes(4, "big") + kind + data)
        file.write(zlib.crc32(kind + data).to_bytes(4, "big"))

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0")
    compressor = zlib.compressobj()
    row = b"\0" * (width + 1)
    data = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    chunk(b"IDAT", data)
    chunk(b"IEND", b"")
    return file.getvalue()


def test_a_decompression_bomb_is_refused(embedded: Server) -> None:
    answer = embedded.client.post("/classify", content=png(20_000, 20_000))

    checked_error(answer, 413, "image_too_large")
