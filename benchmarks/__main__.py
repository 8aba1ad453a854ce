"""The command line: `python -m benchmarks quick|full|report`."""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path

from benchmarks.plan import PLANS, Plan
from benchmarks.run import Measurement
from benchmarks.running import ROOT
from errors import OperatorError

PHOTOS = ROOT.parent / "shared" / "data" / "images" / "photos"


def only(plan: Plan, names: list[str]) -> Plan:
    """The plan with just the named servers; all of them where none is named.

    Raises:
        OperatorError: A name no case of the plan has.
    """
    known = {server.name for case in plan.cases for server in case.servers}
    if unknown := sorted(set(names) - known):
        raise OperatorError(
            f"--only: unknown {', '.join(unknown)}; the plan has {', '.join(sorted(known))}"
        )
    if not names:
        return plan
    cases = tuple(
        dataclasses.replace(
            case, servers=tuple(server for server in case.servers if server.name in names)
        )
        for case in plan.cases
    )
    return dataclasses.replace(plan, cases=tuple(case for case in cases if case.servers))


def main() -> int:
    """Measure, or write the report of what was measured."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("command", choices=[*PLANS, "report"])
    parser.add_argument("--only", nargs="*", default=[], metavar="SERVER", help="measure these")
    parser.add_argument(
        "--photos", type=Path, default=PHOTOS, help="camera JPEGs the image mixes are made from"
    )
    given = parser.parse_args()
    # Ended from outside, the servers under test are stopped too, by the same `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if given.command == "report":
            from benchmarks.report import write_report  # needs matplotlib, measuring does not

            print(write_report())
        else:
            print(Measurement(only(PLANS[given.command], given.only), given.photos).run())
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
