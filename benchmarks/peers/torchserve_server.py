"""TorchServe: a model archive with a custom handler, batching as its configuration has it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.peers.ports import free_port

MODEL = "classifier"


def archive(folder: Path) -> None:
    """Write `classifier.mar` into the folder."""
    batching = folder / "model.yaml"
    batching.write_text("minWorkers: 1\nmaxWorkers: 1\nbatchSize: 16\nmaxBatchDelay: 2\n")
    subprocess.run(
        [
            str(Path(sys.executable).with_name("torch-model-archiver")),
            "--model-name",
            MODEL,
            "--version=1.0",
            "--handler",
            str(Path(__file__).with_name("torchserve_handler.py")),
            "--config-file",
            str(batching),
            "--export-path",
            str(folder),
        ],
        check=True,
    )


def configuration(folder: Path, port: int) -> Path:
    """Write TorchServe's properties and return their path."""
    path = folder / "config.properties"
    properties = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "model_store": folder,
        "load_models": f"{MODEL}.mar",
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "install_py_dep_per_model": "false",
    }
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    return path


if __name__ == "__main__":
    home = Path(tempfile.mkdtemp(prefix="torchserve-"))
    archive(home)
    os.chdir(home)  # TorchServe 0.12 also writes below `logs/` of the working directory
    arguments = ["--foreground", "--ncs", "--start", "--disable-token-auth"]
    # The Java front end starts `python` by name for its workers.
    search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.execve(
        Path(sys.executable).with_name("torchserve"),
        ["torchserve", *arguments, "--ts-config", str(configuration(home, int(sys.argv[1])))],
        os.environ
        | {"PATH": search_path, "LOG_LOCATION": str(home), "METRICS_LOCATION": str(home)},
    )
