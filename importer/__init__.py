"""What model_import.py runs: export, certify, measure, write."""

import image_classifier.inference  # noqa: F401 - before openvino and nncf: turns their telemetry off
