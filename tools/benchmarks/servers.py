"""The servers under test: commands, requests and answers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.load import LOOPBACK, best_prediction
from tools.serving import ADDRESS, PORT, PRODUCT_COMMAND, ROOT, http_request

PRODUCT = "this project"
BUILD = ROOT / "build" / "benchmarks"
PEERS_PYTHON = BUILD / "venv" / "bin" / "python"
"""Python of the environment that `make bench` installs from requirements/bench.txt."""
OWN_PYTHON = BUILD / "serving" / "bin" / "python"
"""The same interpreter with the packages of production: builds of Python differ in speed."""
BOUNDARY = "benchmark-part-border"


def raw_body(data: bytes) -> tuple[Mapping[str, str], bytes]:
    """Return headers and body of a request with the file as the body."""
    return {"Content-Type": "image/jpeg"}, data


def form_upload(data: bytes) -> tuple[Mapping[str, str], bytes]:
    """Return headers and body of a form with the file as the part `image`."""
    head = (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=image; filename=photo.jpg\r\n"
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body


def binary_tensor(data: bytes) -> tuple[Mapping[str, str], bytes]:
    """Return headers and body of an Open Inference Protocol request with a binary tensor."""
    # Each element of a BYTES tensor is preceded by its length, 4 bytes little-endian.
    element = len(data).to_bytes(4, "little") + data
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(element)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return headers, head + element


def best_output(body: bytes) -> int:
    """Return the class of an Open Inference Protocol answer with an output `class_id`."""
    outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
    return int(outputs["class_id"]["data"][0])


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server under test.

    Attributes:
        arguments: Of Python, with `PORT` instead of the port.
        python: Interpreter with its packages.
        encode: Returns (headers, body) for a file.
        read_class: Returns the top class in the body of a 200.
    """

    name: str
    arguments: tuple[str, ...]
    python: str = str(PEERS_PYTHON)
    path: str = "/classify"
    encode: Callable[[bytes], tuple[Mapping[str, str], bytes]] = raw_body
    read_class: Callable[[bytes], int] = best_prediction

    def request(self, data: bytes) -> bytes:
        """Return the complete HTTP request for a file."""
        return http_request(self.path, *self.encode(data))


def _module(name: str) -> tuple[str, ...]:
    return ("-m", f"tools.benchmarks.peers.{name}", PORT)


OWN = Server(name=PRODUCT, python=str(OWN_PYTHON), arguments=PRODUCT_COMMAND[1:])
SERVERS = (
    OWN,
    Server(name="FastAPI", arguments=_module("fastapi_app")),
    Server(name="LitServe", arguments=_module("litserve_api"), encode=form_upload),
    Server(
        name="Mosec",
        arguments=(
            *("-m", "tools.benchmarks.peers.mosec_workers", "--log-level", "warning"),
            *("--address", LOOPBACK, "--port", PORT),
        ),
        path="/inference",
    ),
    Server(
        name="PyTriton",
        arguments=_module("pytriton_model"),
        path="/v2/models/classifier/infer",
        encode=binary_tensor,
        read_class=best_output,
    ),
    Server(
        name="BentoML",
        arguments=(
            *("-m", "bentoml", "serve", "tools.benchmarks.peers.bentoml_service:API"),
            *ADDRESS,
        ),
        encode=form_upload,
    ),
)
