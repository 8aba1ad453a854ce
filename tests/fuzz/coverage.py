"""Coverage-guided fuzzing: `python -m tests.fuzz.coverage CORPUS -max_total_time=600`.

Needs atheris (`pip install atheris`), which no other part of the project needs. It watches
the branches of Pillow's Python plugins and of this project. CORPUS is a folder that takes the
inputs worth keeping; it starts with the seeds of the mutation fuzzer. All other arguments are
libFuzzer's.
"""

import hashlib
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "preprocessing"]):
    from tests.fuzz.mutations import seeds
    from tests.fuzz.target import run_once


def main() -> None:
    warnings.simplefilter("ignore")  # Pillow's remarks on damaged files
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    atheris.Setup(sys.argv, run_once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
