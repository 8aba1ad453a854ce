"""A stored run of the preprocessing benchmark → the tables of docs/preprocessing.md."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.record import Machine, Record


class Timing(Record):
    """Times of one step: "decode", "resize", "crop" (with the copy to an array) or "all"."""

    image: str
    step: str
    whose: str
    samples_ms: tuple[float, ...]


class Shrink(Record):
    """One photo, preprocessed from a full and from a shrunk decode, in turn."""

    photo: str
    side: int
    full_ms: tuple[float, ...]
    shrunk_ms: tuple[float, ...]
    max_difference: float


class DecoderRun(Record):
    """Times of one decoder to an RGB array; difference to Pillow in levels of 255."""

    decoder: str
    image: str
    samples_ms: tuple[float, ...]
    max_difference: int


class Difference(Record):
    """Largest difference to torchvision over random pictures."""

    configuration: str
    against: str
    images: int
    max_difference: float


class Result(Record):
    """One run of the benchmark.

    Times are CPU time of the measuring thread. `load_average` is that of the last minute when the
    run began: on a busy machine caches are shared, and times are longer.
    """

    date: str
    commit: str
    machine: Machine
    load_average: float
    versions: dict[str, str]
    timings: tuple[Timing, ...]
    shrinks: tuple[Shrink, ...]
    decoders: tuple[DecoderRun, ...]
    differences: tuple[Difference, ...]


def write_tables(result: Result, page: Path) -> None:
    """Replace what stands between the markers of a page."""
    page.write_text(with_tables(page.read_text(), result))


def with_tables(text: str, result: Result) -> str:
    """Text of the page with the tables of this run."""
    for name, table in _tables(result).items():
        start, end = f"<!-- {name}: generated -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        if not found or end not in rest:
            raise ValueError(f"the page has no place for the table {name}")
        text = before + start + table + rest[rest.index(end) :]
    return text


def _tables(result: Result) -> dict[str, str]:
    return {
        "conditions": _conditions(result),
        "times": _times(result),
        "shrink": _shrink(result),
        "decoders": _decoders(result),
        "differences": _differences(result),
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _conditions(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    machine = result.machine
    return (
        f"Measured {result.date[:10]} at commit {result.commit} on {machine.cpu_count} × "
        f"{machine.cpu_model}, load average {result.load_average:.1f}; {versions}. "
        "Raw samples: `benchmarks/results/preprocessing.json`.\n"
    )


def _times(result: Result) -> str:
    times = {(t.image, t.step, t.whose): median(t.samples_ms) for t in result.timings}
    rows = []
    for image, step in dict.fromkeys((t.image, t.step) for t in result.timings):
        bare, ours = times[image, step, "bare"], times[image, step, "ours"]
        rows.append([image, step, f"{bare:.2f}", f"{ours:.2f}", f"{ours / bare:.2f}"])
    return _table(["JPEG", "step", "bare Pillow, ms", "this package, ms", "ratio"], rows)


def _shrink(result: Result) -> str:
    rows = [
        [
            run.photo,
            str(run.side),
            f"{median(run.full_ms):.1f}",
            f"{median(run.shrunk_ms):.1f}",
            f"{median(run.full_ms) / median(run.shrunk_ms):.1f} ×",
            f"{run.max_difference:.0f}",
        ]
        for run in result.shrinks
    ]
    head = ["photo", "`shrink_jpeg_to_side`", "full, ms", "shrunk, ms", "faster", "max difference"]
    return _table(head, rows)


def _decoders(result: Result) -> str:
    rows = [
        [run.image, run.decoder, f"{median(run.samples_ms):.2f}", str(run.max_difference)]
        for run in result.decoders
    ]
    return _table(["JPEG", "decoder", "ms to an array", "max difference to Pillow"], rows)


def _differences(result: Result) -> str:
    rows = [
        [run.configuration, run.against, str(run.images), f"{run.max_difference:.2g}"]
        for run in result.differences
    ]
    return _table(["configuration", "torchvision", "pictures", "max difference"], rows)
