"""The command line: python -m release COMMAND."""

import argparse
import sys
from pathlib import Path

from image_classifier.artifact.store import LOCK_NAME, read_lock
from preprocessing.errors import OperatorError
from release.building import BENTOFILE, bentoml_home, build_bento, find_bento
from release.content import content_digest
from release.image import Bases, build_image, find_tool
from release.image_trial import try_image
from release.locks import check_locks
from release.rebuilding import verify_rebuild
from release.signing import make_key_pair, sign_artifact
from release.verification import verify_bento

CHECKOUT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> str:
    """Run one command; returns what to print.

    Raises:
        OperatorError: The command found something wrong.
    """
    given = _parser().parse_args(arguments)
    command: str = given.command
    if command == "build":
        manifest, path = build_bento(CHECKOUT, given.bentofile)
        return f"{manifest.name}:{manifest.version}\ndigest sha256:{manifest.digest}\n{path}"
    if command == "digest":
        return content_digest(find_bento(given.bento))
    if command == "verify-bento":
        manifest = verify_bento(find_bento(given.bento))
        return f"verified: {manifest.name}:{manifest.version}, {len(manifest.files)} files"
    if command == "verify-rebuild":
        return verify_rebuild(CHECKOUT, given.bentofile)
    if command == "image":
        manifest, _ = build_bento(CHECKOUT, given.bentofile)
        return build_image(manifest, find_tool(), Bases(base=given.base))
    if command == "image-test":
        return try_image(CHECKOUT, Bases(base=given.base))
    if command == "keygen":
        return f"public key: {make_key_pair(given.private_key)}"
    if command == "sign":
        lock = read_lock(CHECKOUT / LOCK_NAME)
        folder = bentoml_home() / "models" / lock.tag.replace(":", "/")
        return f"signed: {sign_artifact(folder, lock, given.private_key)}"
    return f"consistent: {check_locks(CHECKOUT / 'requirements')} pinned lines in 3 locks"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the bento; its version is its digest")
    rebuild = commands.add_parser("verify-rebuild", help="build twice, compare every byte")
    image = commands.add_parser("image", help="build the bento and its image")
    trial = commands.add_parser("image-test", help="build the image twice, run it locked down")
    for command in (image, trial):
        command.add_argument("--base", help="Python image to start from, with its digest")
    for command in (build, rebuild, image):
        command.add_argument("-f", "--bentofile", default=BENTOFILE)
    for name, said in (
        ("digest", "digest of the content, of a plain `bentoml build` too"),
        ("verify-bento", "compare a bento with its manifest"),
    ):
        commands.add_parser(name, help=said).add_argument("bento", metavar="PATH|TAG")
    for name, said in (
        ("keygen", "make a key pair: PRIVATE_KEY and, beside it, .pub"),
        ("sign", "sign the model of model.lock in the store"),
    ):
        commands.add_parser(name, help=said).add_argument("private_key", type=Path)
    commands.add_parser("lock-check", help="check the requirement locks for drift")
    return parser


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except OperatorError as error:
        sys.exit(f"release: {error}")
