"""From image file to predictions."""

import sys

# `import openvino` (2026.4.1) reports to Google Analytics from a forked process, unless its
# telemetry package cannot be imported; then it uses a stub (openvino/tools/ovc/__init__.py).
# tests/service/test_isolation.py checks that a service opens no connection of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
