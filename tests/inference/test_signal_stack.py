"""OpenVINO leaves the stack on which a thread handles its signals in order."""

import subprocess
import sys
from pathlib import Path

from tests.imports import PATIENCE_S
from tests.inference.tiny import export_tiny

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import gc, os, signal, sys, threading
from pathlib import Path

from image_classifier.artifact.evidence import EngineGraph
from image_classifier.artifact.record import Plan
from inference.engines import open_graph

engines = [
    open_graph(
        EngineGraph(kind="openvino", precision="fp32", file="network.onnx"),
        Path(sys.argv[1]),
        (6, 5, 3),
    )(Plan(engine="one", streams=1, threads=1, batch_sizes=(1,), service_time_ms=1))
]
# The last reference goes away in another thread, as after a measurement.
thread = threading.Thread(target=lambda: (engines.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
os.kill(os.getpid(), signal.SIGTERM)
print("alive", flush=True)
"""


def test_a_signal_after_an_engine_ended_in_another_thread_is_handled(tmp_path: Path) -> None:
    export_tiny(tmp_path)

    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "handled\nalive\n"), done.stderr
