"""Shows what a model sees of image files: `python -m preprocessing --help`."""

import argparse
import sys
from pathlib import Path

from preprocessing.errors import ImageRejected, OperatorError, PreprocessingBug, SpecError
from preprocessing.limits import DecodeLimits
from preprocessing.spec import PreprocessingSpec
from preprocessing.trace import Step, trace
from preprocessing.transform import SpecPreprocessing
from preprocessing.user_class import Preprocessing, load_preprocessing


def main(arguments: list[str]) -> int:
    """Print the steps of each file and return the exit status: 1 if any file was rejected."""
    options = _parser().parse_args(arguments)
    try:
        preprocessing = _preprocessing(options)
    except OperatorError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    rejected = 0
    for file in options.files:
        try:
            steps = trace(file.read_bytes(), preprocessing, DecodeLimits())
        except (ImageRejected, PreprocessingBug, OSError) as error:
            sys.stdout.write(f"{file}: {getattr(error, 'code', type(error).__name__)}: {error}\n")
            rejected += 1
            continue
        sys.stdout.write(f"{file}\n" + "".join(map(_line, steps)))
        if options.save is not None:
            _save(steps, options.save, file)
    return 1 if rejected else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m preprocessing",
        description="Preprocess image files and show the image after each step.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--spec",
        type=Path,
        help="YAML or JSON preprocessing spec; without it shorter side 256, centre crop 224",
    )
    what.add_argument("--class", dest="user_class", metavar="FILE.py:CLASS", help="your own class")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="write the image after each step there, as PNG"
    )
    return parser


def _preprocessing(options: argparse.Namespace) -> Preprocessing:
    if options.user_class is not None:
        path, _, class_name = options.user_class.rpartition(":")
        if not path:
            raise SpecError(f"--class {options.user_class}: expected FILE.py:CLASS")
        return load_preprocessing(Path(path), class_name)
    if options.spec is not None:
        return SpecPreprocessing(PreprocessingSpec.from_file(options.spec))
    return SpecPreprocessing(PreprocessingSpec.imagenet())


def _line(step: Step) -> str:
    width, height = step.size
    return f"  {step.name:<8}{width:>6} × {height:<6}{step.mode:<8}{step.milliseconds:>9.2f} ms\n"


def _save(steps: tuple[Step, ...], directory: Path, file: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps):
        if step.picture is not None:
            # PNG knows fewer modes than the decoders: CMYK is shown as RGB.
            picture = step.picture.convert("RGB") if step.mode == "CMYK" else step.picture
            picture.save(directory / f"{file.stem}.{number}.{step.name}.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
