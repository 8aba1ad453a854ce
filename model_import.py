"""Command line: a trained model becomes a verified artifact in BentoML's model store."""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from image_classifier.artifact.store import LOCK_NAME
from image_classifier.inference.certificate import Gates
from importer.commands import COMMANDS, command_parser
from importer.export import return_freed_memory
from importer.interruption import STATUS, end_on_signals, interrupt
from importer.options import ImportOptions
from importer.pipeline import current_provenance
from importer.progress import TerminalProgress
from importer.report import print_json, print_summary
from preprocessing.errors import OperatorError

ROOT = Path(__file__).resolve().parent
GATE_OPTIONS = {
    "fp32_tolerance": "--gate-fp32-tolerance",
    "min_agreement": "--gate-agreement",
    "max_accuracy_loss": "--gate-accuracy-loss",
}
"""Field of `Gates` → its option."""
EXAMPLES = """\
examples:
  # a network of torchvision with published weights: labels and preprocessing come with them
  python model_import.py --name resnet50 --network torchvision:resnet50 \\
      --weights IMAGENET1K_V2 --golden photos/

  # a network, weights and preprocessing of your own
  python model_import.py --name digits --network network.py:build --weights weights.safetensors \\
      --preprocessing preprocessing.py:DigitsPreprocessing --labels labels.txt --golden samples/

commands, each with a --help of its own:
  verify [TAG]      run all certificates again, on this machine
  show [TAG]        an artifact as a readable page
  list              the artifacts of the model store
  export TAG FILE   write an artifact into one file, for another machine
  import FILE       read such a file into the model store; runs nothing that is in it

exit status: 0 done, 1 refused (one line says why), 2 wrong arguments, 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    """The command line of an import."""
    parser = argparse.ArgumentParser(
        prog="model_import.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model = parser.add_argument_group("the model")
    model.add_argument("--name", required=True, help="name in the model store, lower case")
    model.add_argument("--network", help="torchvision:NAME or PATH.py:FUNCTION")
    model.add_argument(
        "--network-kwargs",
        default={},
        type=json_object,
        metavar="JSON",
        help="arguments of the builder, e.g. '{\"num_classes\": 10}'",
    )
    model.add_argument(
        "--weights",
        required=True,
        help="checkpoint (.safetensors, .pt, .pth, …), name of torchvision's weights, or, without "
        "--network, a TorchScript or ONNX file",
    )
    model.add_argument("--weights-key", help='where in a checkpoint they are, e.g. "model_ema"')
    model.add_argument(
        "--weights-prefix", help='take only the names that start so, and cut it off, e.g. "net."'
    )
    model.add_argument(
        "--preprocessing",
        help="spec file (.yaml, .json), PATH.py:CLASS or torchvision:NAME/WEIGHTS",
    )
    model.add_argument("--labels", type=Path, help="text, JSON list or JSON id → name")
    proof = parser.add_argument_group("the proof")
    proof.add_argument(
        "--golden", required=True, type=Path, help="folder of images the model is verified with"
    )
    proof.add_argument("--golden-labels", type=Path, metavar="CSV", help="classes of the images")
    proof.add_argument("--golden-count", type=int, default=100, help="images kept (default 100)")
    proof.add_argument(
        "--reference", type=Path, help="logits or probabilities of your notebook (.json, .npz)"
    )
    proof.add_argument("--calibration", type=Path, help="folder of images for int8")
    proof.add_argument("--calibration-count", type=int, default=64, help="(default 64)")
    _add_gates(parser.add_argument_group("gates"))
    _add_engines(parser.add_argument_group("engines"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--lock", type=Path, default=ROOT / LOCK_NAME, help="lock to write (default model.lock)"
    )
    output.add_argument("--json", action="store_true", help="result as JSON on standard output")
    output.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def json_object(text: str) -> dict[str, Any]:
    """The object that an argument is.

    Raises:
        ArgumentTypeError: It is no JSON, or JSON of another kind.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"not a JSON object: it is a {type(value).__name__}")
    return value


def _add_gates(group: Any) -> None:
    for field, option in GATE_OPTIONS.items():
        default = getattr(Gates(), field)
        group.add_argument(option, dest=field, type=float, default=default, metavar="NUMBER")


def _add_engines(group: Any) -> None:
    group.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    group.add_argument(
        "--engine", choices=["auto", "openvino", "onnxruntime", "torchscript"], default="auto"
    )
    group.add_argument(
        "--precision", choices=["auto", "fp32", "bf16", "fp16", "int8"], default="auto"
    )
    group.add_argument("--budget-ms", type=float, default=50.0, help="latency budget (default 50)")
    group.add_argument("--measure-seconds", type=float, default=0.4, help="a point (default 0.4)")


def options_from(arguments: argparse.Namespace) -> ImportOptions:
    """The checked options of a parsed command line.

    Raises:
        ValidationError: An argument has a value that is not allowed.
    """
    given = vars(arguments)
    gates = Gates(**{field: given[field] for field in GATE_OPTIONS})
    fields = {name: given[name] for name in ImportOptions.model_fields if name in given}
    return ImportOptions(**fields, gates=gates)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    signal.signal(signal.SIGTERM, interrupt)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in COMMANDS:
            given = command_parser(ROOT / LOCK_NAME).parse_args(arguments)
            return int(given.run(given, TerminalProgress(quiet=given.quiet or given.json)))
        return _import(parser().parse_args(arguments))
    except OperatorError as error:
        print(f"model_import: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a read-only folder: of the person's machine, no bug
        places = [str(name) for name in (error.filename, error.filename2) if name is not None]
        parts = [*([" → ".join(places)] if places else []), error.strerror or str(error)]
        print(f"model_import: {': '.join(parts)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("model_import: interrupted; the store and the lock are as they were", file=sys.stderr)
        return STATUS


def _import(given: argparse.Namespace) -> int:
    try:
        options = options_from(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        option = GATE_OPTIONS.get(field, f"--{field.replace('_', '-')}")
        parser().error(f"{option}: {first['msg']}, found {first['input']!r}")
    progress = TerminalProgress(quiet=given.quiet or given.json)
    return_freed_memory()
    with progress.step("load torch"):
        from importer.pipeline import import_model
    imported = import_model(options, given.lock, current_provenance(ROOT), progress)
    if given.json:
        print_json(
            {
                **imported.lock.model_dump(),
                "known": imported.known,
                "manifest": imported.manifest.model_dump(mode="json"),
                "evidence": imported.evidence.model_dump(mode="json"),
                "record": imported.record.model_dump(mode="json"),
            }
        )
    else:
        print_summary(imported.lock.tag, imported.known, imported.record, imported.manifest)
    return 0


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
