"""The image, built twice and run as in a cluster (`make image-test`)."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.imports import SAMPLES
from tests.service.places import NewPlace, Place
from tests.service.server import Server, read_to_end, upload
from tests.tools.release.podman import (
    Container,
    debian_python,
    inspect,
    podman,
    write_configuration,
)

BASE = os.environ.get("CLASSIFIER_TEST_IMAGE_BASE")
pytestmark = [
    pytest.mark.all,
    pytest.mark.xdist_group("image"),
    pytest.mark.skipif(not BASE, reason="only in `make image-test`"),
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("podman") or not shutil.which("runc"),
        reason="needs root, podman and runc (apt-get install podman runc mmdebstrap)",
    ),
]
SAMPLE = (SAMPLES / "2-01.jpg").read_bytes()


@pytest.fixture(scope="module")
def place(new_place: NewPlace) -> Place:
    return new_place()


@pytest.fixture(scope="module")
def contents(place: Place) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The name of the image, and the results of two builds without a cache."""
    folder = place.home / "podman"
    folder.mkdir()
    write_configuration(folder)
    variables = {
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "run.conf"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        base = BASE or ""
        build_base = base
        if base == "debian":
            libraries = "python3,ca-certificates,libgomp1,libstdc++6"
            base = debian_python(folder, "python-runtime", "essential", libraries)
            tools = "python3,python3-venv,python3-pip,ca-certificates"
            build_base = debian_python(folder, "python-build", "minbase", tools)
        options = ("--opt", f"build-arg=BUILD_BASE={build_base}", "--opt", "no-cache")
        build = ("-m", "tools.release", "image", "--base", base, *options)
        found = []
        for _ in range(2):
            with patch.context() as building:
                building.setenv("CONTAINERS_CONF", str(folder / "build.conf"))
                name = place.run(*build)
            image = inspect(name, kind="image")
            # Not the id: podman 4.3 writes random intermediate names into the history.
            found.append({part: image[part] for part in ("RootFS", "Config", "Healthcheck")})
        yield name, found
        subprocess.run(["umount", str(folder / "store" / "overlay")], capture_output=True)


@pytest.fixture(scope="module")
def image(contents: tuple[str, list[dict[str, Any]]]) -> str:
    return contents[0]


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    with Container(image) as running:
        yield running


def test_two_builds_have_the_same_layers_and_configuration(
    contents: tuple[str, list[dict[str, Any]]],
) -> None:
    first, second = contents[1]

    assert first == second


def test_the_image_is_small_and_its_last_layer_is_the_code(image: str) -> None:
    history = json.loads(podman("history", "--human=false", "--no-trunc", "--format=json", image))
    layers = [(entry["CreatedBy"], entry["size"]) for entry in reversed(history) if entry["size"]]
    (model,) = [number for number, (text, _) in enumerate(layers) if "./models" in text]
    (packages,) = [number for number, (text, _) in enumerate(layers) if "/app/venv" in text]

    assert packages < model < len(layers) - 1
    assert "./src" in layers[-1][0]
    assert sum(size for _, size in layers) - layers[model][1] < 450e6


def test_the_image_names_its_model_bento_and_commit(image: str, place: Place) -> None:
    labels = inspect(image, kind="image")["Labels"]
    lock = json.loads(place.lock.read_bytes())

    assert labels["image-classifier.model.digest"] == f"sha256:{lock['manifest_sha256']}"
    assert labels["image-classifier.bento.digest"].startswith("sha256:")
    assert "org.opencontainers.image.revision" in labels


def test_the_image_starts_and_checks_its_health_without_a_shell(
    image: str, container: Container
) -> None:
    found = inspect(image, kind="image")
    kind, *command = found["Healthcheck"]["Test"]

    assert found["Config"]["Entrypoint"] == ["bentoml", "serve", "--host", "0.0.0.0", "/app/bento"]
    assert int(found["Config"]["User"].partition(":")[0]) >= 10_000
    assert kind == "CMD"
    container.run(*command)
    with pytest.raises(AssertionError, match="Connection refused"):
        container.run("env", "BENTOML_PORT=1", *command)


def test_the_process_is_unprivileged_and_has_no_build_tools(
    container: Container,
) -> None:
    words = container.run("cat", "/proc/1/status").split("\n")
    status = dict(line.split(":\t") for line in words if ":\t" in line)

    assert status["Uid"].split() == ["12345"] * 4
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    with pytest.raises(AssertionError, match="Read-only file system"):
        container.run("python", "-c", "open('/app/x', 'w')")
    tools = ["gcc", "cc", "make", "git", "curl", "apt", "pip"]
    program = f"import shutil; print([t for t in {tools} if shutil.which(t)])"
    assert container.run("python", "-c", program) == "[]"


def test_the_answers_equal_those_of_the_checkout(container: Container, place: Place) -> None:
    with Server(place) as server:
        for path in sorted(SAMPLES.iterdir()):
            expected, answer = (
                client.post("/classify?top_k=10", content=path.read_bytes()).json()
                for client in (server.client, container.client)
            )
            assert answer["predictions"] == expected["predictions"], path.name
            assert answer["model"] == expected["model"]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"engine": "onnxruntime-fp32"}, id="onnxruntime"),
        pytest.param({"topology": "runner", "workers": 1}, id="two-processes"),
    ],
)
def test_other_settings_serve_too(image: str, settings: dict[str, object]) -> None:
    with Container(image, **settings) as running:
        answer = running.client.post("/classify", content=SAMPLE).json()

    assert answer["predictions"][0]["label"] == "2"


def test_sigterm_lets_accepted_requests_finish(image: str) -> None:
    with Container(image) as running, running.send(upload(SAMPLE)[:-1]) as held:
        while "classifier_in_flight 1.0" not in running.client.get("/metrics").text:
            time.sleep(0.1)
        with running.send(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n") as idle:
            stopping = threading.Thread(target=podman, args=("stop", "--time=30", running.name))
            stopping.start()
            # Idle connections are closed first, so the process has received SIGTERM.
            read_to_end(idle)
        held.sendall(SAMPLE[-1:])

        assert read_to_end(held).startswith(b"HTTP/1.1 200 OK")
        stopping.join()
        assert inspect(running.name)["State"]["ExitCode"] == 0
