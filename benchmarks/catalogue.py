"""The servers under test: how each is started, in which environment, and how it is asked."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.dialects import (
    Dialect,
    base64_inference,
    binary_inference,
    form_upload,
    raw_body,
)

PRODUCT = "this project"
FORM = f"{PRODUCT}, form upload"
OWN = (PRODUCT, FORM)


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server under test.

    Attributes:
        name: As tables show it.
        environment: Name of its requirement file and virtual environment; None runs in the
            benchmark's own.
        command: Path of the environment's Python and port to a command line.
        dialect: How it is asked.
        variables: Added to its process environment.
        python: Interpreter the environment is made with; None is the benchmark's own.
        ready_within_s: Longest start.
        float32: It runs the network in float32 whatever the engine's precision.
        note: What is special about it, for the report.
    """

    name: str
    environment: str | None
    command: Callable[[str, int], list[str]]
    dialect: Dialect
    variables: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    ready_within_s: float = 60.0
    float32: bool = False
    note: str = ""


def _module(name: str) -> Callable[[str, int], list[str]]:
    return lambda python, port: [python, "-m", f"benchmarks.peers.{name}", str(port)]


def _mosec(python: str, port: int) -> list[str]:
    flags = ["--address", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    return [python, "-m", "benchmarks.peers.mosec_server", *flags]


def _bentoml(target: str) -> Callable[[str, int], list[str]]:
    return lambda python, port: [
        python,
        "-m",
        "bentoml",
        "serve",
        target,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]


NULL = Server(
    name="null server",
    environment=None,
    command=lambda python, port: [python, "-m", "benchmarks.null_server", str(port)],
    dialect=raw_body("/classify"),
    note="reads the body and answers at once: what the generator itself costs",
)

PRODUCT_SERVER = Server(
    name=PRODUCT,
    environment=None,
    command=_bentoml("service:ImageClassifier"),
    dialect=raw_body("/classify"),
    variables={"BENTOML_DO_NOT_TRACK": "True"},
    note="raw body",
)

FORM_SERVER = dataclasses.replace(
    PRODUCT_SERVER, name=FORM, dialect=form_upload("/classify"), note="form upload"
)

PEERS = (
    Server(
        name="FastAPI",
        environment="fastapi",
        command=_module("plain_fastapi"),
        dialect=raw_body("/classify"),
        note="uvicorn, threads and a lock; raw body",
    ),
    Server(
        name="FastAPI, eager torch",
        environment="eager_torch",
        command=_module("eager_torch"),
        dialect=raw_body("/classify"),
        float32=True,
        note="float32 whatever the engine; raw body",
    ),
    Server(
        name="LitServe",
        environment="litserve",
        command=_module("litserve_server"),
        dialect=form_upload("/classify"),
        note="batches of up to 16; form upload",
    ),
    Server(
        name="Mosec",
        environment="mosec",
        command=_mosec,
        dialect=raw_body("/inference"),
        note="decoding processes, batches of up to 16; raw body",
    ),
    Server(
        name="Ray Serve",
        environment="ray_serve",
        command=_module("ray_serve"),
        dialect=raw_body("/classify"),
        variables={"RAY_USAGE_STATS_ENABLED": "0"},
        note="serve.batch of up to 16; raw body",
    ),
    Server(
        name="MLServer",
        environment="mlserver",
        command=_module("mlserver_runtime"),
        dialect=base64_inference("classifier"),
        note="adaptive batches of up to 16; base64 in JSON",
    ),
    Server(
        name="BentoML, depends",
        environment="bentoml_depends",
        command=_bentoml("benchmarks.peers.bentoml_depends:API"),
        dialect=form_upload("/classify"),
        variables={"BENTOML_DO_NOT_TRACK": "True"},
        note="as its documentation shows it, defaults; form upload",
    ),
    Server(
        name="PyTriton",
        environment="pytriton",
        command=_module("pytriton_server"),
        dialect=binary_inference("classifier"),
        python="/usr/bin/python3",
        note="dynamic batches of up to 16; binary tensor",
    ),
    Server(
        name="TorchServe",
        environment="torchserve",
        command=_module("torchserve_server"),
        dialect=raw_body("/predictions/classifier"),
        note="batches of up to 16; raw body",
    ),
)


def preprocessing_of(server: str) -> str:
    """Which preprocessing the limit must have that a server is compared with.

    The project's own, with all its checks, or the bare Pillow calls of the peers.
    """
    return "project" if server in OWN else "pillow"
