"""Whether a preprocessing makes the pixels it made before: digests of a fixed set of files.

The files cover each container, colour mode, bit depth, orientation, kind of transparency and
direction of resize, and a few that must be rejected. They are bytes in
`conformance_cases.zip`, so the encoder of another Pillow cannot change them.

`decode/` cases are digested as decoded images and `input/` cases as inputs. What follows the
decode depends on the decoded image alone, so a few sizes prove it, and all cases together take
less than 100 ms of one core for a spec of 224 pixels.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from preprocessing.decode import decode_image
from preprocessing.errors import ImageRejected, PreprocessingBug
from preprocessing.limits import DecodeLimits
from preprocessing.transform import to_input
from preprocessing.user_class import Preprocessing

CASES_FILE = Path(__file__).with_name("conformance_cases.zip")


@cache
def conformance_cases() -> Mapping[str, bytes]:
    """Return all files by name, in a fixed order.

    A name says what is digested and what the file is, such as "decode/png-grey16". A published
    name never gets other bytes.
    """
    with ZipFile(CASES_FILE) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def conformance_digests(preprocessing: Preprocessing) -> dict[str, str]:
    """Decode or preprocess every file and describe the result.

    Args:
        preprocessing: A spec's or a user's own.

    Returns:
        For each case, by name: the sha256 (hex) of dtype, shape and bytes of its image or
        input; "rejected:<code>" where the file is rejected; "raised:<type>" where a user's
        class raises an exception or returns something else than it declares.
    """
    cases = conformance_cases()
    return {name: _outcome(name, data, preprocessing) for name, data in cases.items()}


def differing_cases(expected: Mapping[str, str], actual: Mapping[str, str]) -> tuple[str, ...]:
    """Name the cases of `expected` that have another outcome, or none, in `actual`.

    Cases that only `actual` has are not compared: a later release may add some.
    """
    return tuple(name for name, outcome in expected.items() if actual.get(name) != outcome)


def _outcome(name: str, data: bytes, preprocessing: Preprocessing) -> str:
    limits = DecodeLimits()
    try:
        if name.startswith("input/"):
            array = to_input(data, preprocessing, limits)
        else:
            array = np.asarray(decode_image(data, preprocessing.decode, limits))
    except ImageRejected as error:
        return f"rejected:{error.code}"
    except PreprocessingBug as error:
        return f"raised:{type(error.__cause__ or error).__name__}"
    digest = hashlib.sha256(f"{array.dtype} {array.shape}\n".encode())
    digest.update(array.data)
    return digest.hexdigest()
