"""The image, run as a cluster runs it: no rights, read-only, 1 GiB (`make image-test`)."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.container import Container, podman
from tests.imports import SAMPLES
from tests.service.places import Place
from tests.service.server import Server, read_to_end, wait_until
from tests.service.test_stopping import held_upload, idle_connection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "CLASSIFIER_TEST_IMAGE" not in os.environ, reason="no image was built: make image-test"
    ),
]
ROOT = Path(__file__).resolve().parents[2]
SAMPLE = (SAMPLES / "2-01.jpg").read_bytes()


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with Container() as running:
        yield running


def image() -> dict[str, object]:
    found: dict[str, object] = json.loads(
        podman("image", "inspect", os.environ["CLASSIFIER_TEST_IMAGE"])
    )[0]
    return found


def test_the_image_says_what_it_holds() -> None:
    labels = image()["Labels"]
    lock = json.loads((ROOT / "model.lock").read_bytes())

    assert isinstance(labels, dict)
    assert labels["image-classifier.model.digest"] == f"sha256:{lock['manifest_sha256']}"
    assert labels["image-classifier.bento.digest"].startswith("sha256:")
    assert "org.opencontainers.image.revision" in labels


def test_the_image_checks_its_health_without_a_shell_and_starts_without_one() -> None:
    config = image()["Config"]

    assert isinstance(config, dict)
    assert config["Entrypoint"] == ["bentoml", "serve", "--host", "0.0.0.0", "/app/bento"]
    assert health_check()[0] == "CMD"
    assert int(config["User"].partition(":")[0]) >= 10_000


def health_check() -> list[str]:
    found = image()["Healthcheck"]
    assert isinstance(found, dict)
    words: list[str] = found["Test"]
    return words


def test_the_health_check_passes_where_it_serves_and_fails_elsewhere(container: Container) -> None:
    command = health_check()[1:]

    container.run(*command)
    with pytest.raises(AssertionError, match="Connection refused"):
        container.run("env", "BENTOML_PORT=1", *command)


def test_the_process_has_no_rights(container: Container) -> None:
    words = container.run("cat", "/proc/1/status").split("\n")
    status = dict(line.split(":\t") for line in words if ":\t" in line)

    assert status["Uid"].split() == ["12345"] * 4
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    with pytest.raises(AssertionError, match="Read-only file system"):
        container.run("python", "-c", "open('/app/x', 'w')")


@pytest.mark.parametrize("tool", ["gcc", "cc", "make", "git", "curl", "apt", "pip"])
def test_there_is_nothing_to_build_or_fetch_with(container: Container, tool: str) -> None:
    found = container.run("python", "-c", f"import shutil; print(shutil.which({tool!r}))")

    assert found == "None"


def test_the_answers_are_those_of_the_checkout_to_the_bit(
    container: Container, tmp_path: Path
) -> None:
    real = Path(os.environ["CLASSIFIER_TEST_HOME"])
    place = Place(directory=ROOT, home=real).with_own_store(tmp_path / "home")
    with Server(place, max_wait_ms=50_000) as server:
        for path in sorted(SAMPLES.iterdir()):
            expected = server.client.post("/classify?top_k=10", content=path.read_bytes()).json()
            answer = container.client.post("/classify?top_k=10", content=path.read_bytes()).json()
            assert answer["predictions"] == expected["predictions"], path.name
            assert answer["model"] == expected["model"]


def test_onnxruntime_serves_without_its_second_library() -> None:
    with Container(engine="onnxruntime-fp32") as running:
        answer = running.client.post("/classify", content=SAMPLE).json()

    assert answer["predictions"][0]["label"] == "2"


def test_two_processes_serve_from_a_read_only_image() -> None:
    with Container(topology="runner", workers=1) as running:
        answer = running.client.post("/classify", content=SAMPLE).json()

    assert answer["predictions"][0]["label"] == "2"


def test_probes_metrics_and_errors_answer(container: Container) -> None:
    assert container.client.get("/livez").status_code == 200
    assert container.client.get("/readyz").status_code == 200
    assert container.client.post("/classify", content=b"no image").status_code == 415
    container.client.post("/classify", content=SAMPLE)
    assert "classifier_requests_total{" in container.client.get("/metrics").text


def test_sigterm_answers_what_was_accepted() -> None:
    with Container() as running, held_upload(running) as held, idle_connection(running) as idle:
        wait_until(
            lambda: "classifier_in_flight 1.0" in running.client.get("/metrics").text, 30, "flight"
        )
        stopping = threading.Thread(target=podman, args=("stop", "--time", "30", running.name))
        stopping.start()
        # Idle connections are closed first of all: SIGTERM has come.
        assert read_to_end(idle) == b""

        held.sendall(SAMPLE[-1:])
        answer = read_to_end(held)
        stopping.join()

        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert running.state()["ExitCode"] == 0


def test_a_container_whose_worker_was_killed_ends_so_that_the_cluster_starts_another() -> None:
    with Container() as running:
        code = (
            "import os, pathlib\n"
            "for path in pathlib.Path('/proc').glob('[0-9]*/stat'):\n"
            "    stat = path.read_text().rpartition(')')[2].split()\n"
            "    if stat[1] == '1' and int(path.parent.name) != os.getpid():\n"
            f"        os.kill(int(path.parent.name), {int(signal.SIGKILL)})\n"
        )
        running.run("python", "-c", code)

        assert running.wait_for_exit(60) == 1


def test_a_model_without_a_signature_is_refused_where_a_key_is_set(tmp_path: Path) -> None:
    from release.signing import make_key_pair

    public = make_key_pair(tmp_path / "key.pem")
    with (
        pytest.raises(RuntimeError, match=r"model\.sig"),
        Container("--volume", f"{public}:/keys/model.pub:ro", public_key="/keys/model.pub"),
    ):
        pass
