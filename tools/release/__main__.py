"""The command line: python -m tools.release COMMAND."""

import argparse
import sys
from pathlib import Path

from importer.progress import Progress
from preprocessing.errors import OperatorError
from tools.release.building import BENTOFILE, build_bento, find_bento
from tools.release.content import bento_tag, content_digest
from tools.release.image import build_image
from tools.release.rebuilding import verify_rebuild
from tools.release.sealing import verify_bento

CHECKOUT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> str:
    """Run one command and return what to print.

    Raises:
        OperatorError: The command failed or found a difference.
    """
    options, progress = _parser().parse_args(arguments), Progress(quiet=False)
    if options.command == "verify-bento":
        root = find_bento(options.bento)
        return f"verified: {bento_tag(root)}, digest sha256:{verify_bento(root)}"
    if options.command == "verify-rebuild":
        return verify_rebuild(CHECKOUT, options.bentofile, progress)
    start = options.command == "build" and not options.skip_start
    root = build_bento(CHECKOUT, options.bentofile, progress, start=start)
    if options.command == "image":
        base = [f"build-arg=BASE={options.base}"] if options.base else []
        with progress.step("build the image"):
            return build_image(root, *base, *options.opt)
    started = "\nstarted once with the packages of its lock: it classified a golden image" * start
    return f"{bento_tag(root)}\ndigest sha256:{content_digest(root)}\n{root}{started}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    text = "build the bento and start it once in an environment with its own lock"
    build = commands.add_parser("build", help=text)
    text = "do not start the bento; no packages are installed"
    build.add_argument("--skip-start", action="store_true", help=text)
    text = "build the bento twice in different surroundings and compare every byte"
    rebuild = commands.add_parser("verify-rebuild", help=text)
    image = commands.add_parser("image", help="build the bento and its container image")
    image.add_argument("--base", help="Python image to start from, with its digest")
    text = "further option of the image builder, without dashes; may be repeated"
    image.add_argument("--opt", action="append", default=[], help=text)
    for command in (build, rebuild, image):
        command.add_argument("-f", "--bentofile", default=BENTOFILE)
    verify = commands.add_parser("verify-bento", help="compare a bento with its version")
    verify.add_argument("bento", metavar="PATH|TAG")
    return parser


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except OperatorError as error:
        sys.exit(f"release: {error}")
