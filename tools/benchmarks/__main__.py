"""Compares this project with its peers and with the limit of the machine: `make bench`."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence

from tools.benchmarks import report
from tools.benchmarks.measure import measured_load, measured_session
from tools.benchmarks.presets import CASES, PRESETS
from tools.benchmarks.servers import BUILD, OWN_PYTHON, PEERS_PYTHON, SERVERS
from tools.benchmarks.session import RESULTS, BenchmarkError, read_session
from tools.serving import ServerFailed

HELP = {
    "quick": "ResNet-50 int8, every server once, about 7 minutes; printed, not published",
    "full": "four models, every server in three rounds, about two hours; for docs/performance.md",
    "load": "one load of any length, on this project or on several servers",
    "report": "write docs/performance.md from the stored sessions",
}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    whole = argparse.ArgumentParser(prog="python -m tools.benchmarks", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    each = {name: commands.add_parser(name, help=text) for name, text in HELP.items()}
    names = [server.name for server in SERVERS]
    for name, preset in PRESETS.items():
        each[name].add_argument("--cases", nargs="+", default=preset.cases, choices=CASES)
        each[name].add_argument("--servers", nargs="+", default=names, choices=names)
        each[name].add_argument("--rounds", type=int, default=preset.rounds)
    load = each["load"]
    load.add_argument("case", choices=CASES)
    load.add_argument("--rate", type=float, help="open loop at this many requests a second")
    load.add_argument("--times", type=float, help="open loop at this multiple of the capacity")
    load.add_argument("--connections", type=int, default=6, help="of the closed loop")
    load.add_argument("--seconds", type=float, default=60)
    load.add_argument("--broken", type=float, default=0, metavar="SHARE", help="of broken files")
    load.add_argument("--cores", help="of the servers, as taskset takes them: 1 or 0,2-5")
    load.add_argument("--servers", nargs="+", default=names[:1], choices=names)
    load.add_argument("--set", nargs="*", default=[], metavar="CLASSIFIER_NAME=VALUE")
    return whole


def run(options: argparse.Namespace) -> str:
    """Run one command; return its last output.

    Raises:
        BenchmarkError, ServerFailed: The command failed.
    """
    if options.command == "report":
        return report.write_page()
    if not (PEERS_PYTHON.exists() and OWN_PYTHON.exists()):
        raise BenchmarkError("the benchmark's environments are missing; run `make bench`")
    servers = [server for server in SERVERS if server.name in options.servers]
    if options.command == "load":
        path = measured_load(
            options.case,
            RESULTS,
            servers=servers,
            settings=dict(pair.split("=", 1) for pair in options.set),
            seconds=options.seconds,
            rate_per_s=options.rate,
            times=options.times,
            connections=options.connections,
            broken=options.broken,
            cores=options.cores,
        )
    else:
        preset = dataclasses.replace(PRESETS[options.command], rounds=options.rounds)
        folder = BUILD / "results" if options.command == "quick" else RESULTS
        path = measured_session(options.command, preset, options.cases, servers, folder)
    return f"{report.as_text(read_session(path))}\n\nwritten: {path}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(arguments)
    # SIGTERM must run the `finally` blocks that stop the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        print(run(options))
    except (BenchmarkError, ServerFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
