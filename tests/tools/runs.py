"""Load runs for tests."""

from tools.load import Run


def run(**changes: object) -> Run:
    """100 answers of 10 ms in a second."""
    defaults = {
        "rate_per_s": 100.0,
        "duration_s": 1.0,
        "elapsed_s": 1.0,
        "sent": 100,
        "latencies_ms": (10.0,) * 100,
        "failed": {},
        "wrong": 0,
    }
    return Run(**{**defaults, **changes})  # type: ignore[arg-type]
