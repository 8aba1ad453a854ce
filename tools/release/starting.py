"""Start a bento once, in an environment with its own lock."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from importer.progress import Progress
from tools.release import ReleaseError
from tools.release.content import locked_model, read_description
from tools.serving import ADDRESS, ServerFailed, expects_ok, http_request, running

READY_WITHIN_S = 600.0


def start_once(bento: Path, home: Path, progress: Progress) -> None:
    """Install the packages of a bento's lock, serve the bento with them and classify an image.

    The server has no access to this checkout and its environment, so that anything missing in the
    bento fails here and not after its delivery.

    Args:
        bento: Directory of the bento.
        home: BENTOML_HOME with its model; also holds the temporary environment.

    Raises:
        ReleaseError: The packages cannot be installed, or the bento does not answer.
    """
    lock = bento / "src" / read_description(bento)["python"]["requirements_txt"]
    image = min((home / locked_model(bento / "src") / "golden").glob("0000.*"))
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLASSIFIER_", "BENTOML_", "PROMETHEUS_", "PYTHON", "VIRTUAL"))
    }
    log = Path(tempfile.gettempdir()) / f"bento-start-{os.getpid()}.log"
    with tempfile.TemporaryDirectory(dir=home, prefix=".start-") as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        with progress.step("install the packages of its lock into a new environment"):
            _uv("venv", "--python", sys.executable, str(python.parents[1]))
            # No dependencies beyond the lock: the image has no others.
            options = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
            _uv("pip", "install", "--python", str(python), *options, "-r", str(lock))
        headers = {"Content-Type": "application/octet-stream"}
        request = http_request("/classify", headers, image.read_bytes())
        try:
            with (
                progress.step("start it there and classify a golden image"),
                running(
                    "the finished bento",
                    [str(python), "-m", "bentoml", "serve", str(bento), *ADDRESS],
                    environment=kept
                    | {
                        "BENTOML_HOME": str(home),
                        "BENTOML_DO_NOT_TRACK": "True",
                        "PYTHONDONTWRITEBYTECODE": "1",
                        # A large network may take longer than the default here.
                        "CLASSIFIER_TIMEOUT_MS": "55000",
                    },
                    log_path=log,
                    probe=expects_ok(request, READY_WITHIN_S),
                    ready_within_s=READY_WITHIN_S,
                    directory=Path(folder),
                ),
            ):
                log.unlink()
        except ServerFailed as error:
            raise ReleaseError(f"{error}; --skip-start builds without this test") from error


def _uv(*words: str) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "uv", *words], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ReleaseError(f"uv {words[0]} failed: {last}; --skip-start builds without this test")
