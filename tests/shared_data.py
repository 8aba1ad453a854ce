"""The shared test data: real weights, photos, golden files, hostile files."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"

needs_shared_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared test data (../shared/data) are not on this machine"
)
