"""The command line: `python -m benchmarks --help`."""

import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from benchmarks.presets import MINUTES, PRESETS, fitted, only
from benchmarks.promises import Subject, deterministic, hold, overload, soak
from benchmarks.run import Measurement, prepare
from benchmarks.running import ROOT, budget_setting
from preprocessing.errors import OperatorError

PHOTOS = ROOT.parent / "shared" / "data" / "images" / "photos"

HELP = {
    "quick": "this project, four peers and the limit, in under 5 minutes",
    "full": "every server with ResNet-50 int8",
    "relaxed": "some servers with ResNet-50 int8 and a budget of 100 ms, for slow machines",
    "models": "this project and FastAPI with other networks and images",
    "prepare": "make the models, images and environments of a session; measure nothing",
    "report": "write docs/performance.md from the stored sessions",
    "certify": "measure what this machine holds with the locked model; write slo.json",
    "hold": "offer one rate for minutes",
    "overload": "offer a multiple of the capacity",
    "soak": "send many requests, some at a time; nothing may be lost",
    "deterministic": "compare whole answers under changing load",
}


def parser() -> ArgumentParser:
    """All commands and their options."""
    whole = ArgumentParser(prog="benchmarks", description="Measures this project and its peers.")
    commands = whole.add_subparsers(dest="command", required=True)
    each = {name: commands.add_parser(name, help=text) for name, text in HELP.items()}
    for name in (*PRESETS, "prepare"):
        each[name].add_argument("--only", nargs="*", default=[], metavar="SERVER")
        each[name].add_argument("--models", nargs="*", default=[], metavar="MODEL")
    for name in PRESETS:
        each[name].add_argument("--minutes", type=float, default=MINUTES[name])
    each["prepare"].add_argument("session", choices=PRESETS, nargs="?", default="full")
    for name in (*PRESETS, "prepare", "hold", "overload", "soak", "deterministic"):
        each[name].add_argument("--photos", type=Path, default=PHOTOS, help="camera JPEGs")
    _add_promises(each)
    certify = each["certify"]
    certify.add_argument("--images", type=Path, help="a directory; default: the golden images")
    certify.add_argument("--budget-ms", type=float)
    certify.add_argument("--seconds", type=float, default=15, help="of one probe")
    certify.add_argument(
        "--rate",
        type=float,
        help="propose for this many a second; measures only where no certificate is stored",
    )
    return whole


def _add_promises(each: dict[str, ArgumentParser]) -> None:
    models = {"soak": "digits-fp32", "deterministic": "digits-fp32"}
    for name in ("hold", "overload", "soak", "deterministic"):
        each[name].add_argument("--model", default=models.get(name, "resnet50-int8"))
        each[name].add_argument("--topology", choices=["embedded", "runner"], default="embedded")
        each[name].add_argument("--budget-ms", type=float, default=50)
    each["hold"].add_argument("--rate", type=float, default=50)
    each["hold"].add_argument("--minutes", type=float, default=10)
    each["overload"].add_argument("--times", type=float, default=3)
    each["overload"].add_argument("--seconds", type=float, default=60)
    each["soak"].add_argument("--requests", type=int, default=100_000)
    each["soak"].add_argument("--connections", type=int, default=64)
    each["deterministic"].add_argument("--seconds", type=float, default=40)


def _measured(given: Namespace) -> object:
    plan = fitted(only(PRESETS[given.command], given.only, given.models), given.minutes)
    return Measurement(plan, given.photos).run()


def _prepared(given: Namespace) -> object:
    prepare(only(PRESETS[given.session], given.only, given.models), given.photos)
    return "prepared"


def _reported(_: Namespace) -> object:
    from benchmarks.report import write_report  # needs matplotlib, measuring does not

    return write_report()


def _certified(given: Namespace) -> object:
    # BentoML, behind the model store, is slow to import.
    from benchmarks.certifying import certified

    return certified(
        given.images, budget_ms=given.budget_ms, slice_s=given.seconds, rate_per_s=given.rate
    )


def _subject(given: Namespace) -> Subject:
    return Subject(
        model=given.model,
        photos=given.photos,
        settings={
            "CLASSIFIER_TOPOLOGY": given.topology,
            **budget_setting(given.budget_ms),
        },
        budget_ms=given.budget_ms,
    )


COMMANDS: dict[str, Callable[[Namespace], object]] = {
    **dict.fromkeys(PRESETS, _measured),
    "prepare": _prepared,
    "report": _reported,
    "certify": _certified,
    "hold": lambda given: hold(_subject(given), rate_per_s=given.rate, minutes=given.minutes),
    "overload": lambda given: overload(_subject(given), times=given.times, seconds=given.seconds),
    "soak": lambda given: soak(
        _subject(given), requests=given.requests, connections=given.connections
    ),
    "deterministic": lambda given: deterministic(_subject(given), seconds=given.seconds),
}


def main() -> int:
    """Run one command."""
    given = parser().parse_args()
    # Ended from outside, the servers under test are stopped too, by the same `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        print(COMMANDS[given.command](given))
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
