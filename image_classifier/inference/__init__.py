"""From input to prediction: engines, executor, batcher."""

import sys

# `import openvino` (2026.4.1) reports to Google Analytics, from a process it forks, unless its
# telemetry package cannot be imported; then it takes a stub (openvino/tools/ovc/__init__.py).
# A service opens no connection of its own. tests/service/test_isolation.py watches.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
