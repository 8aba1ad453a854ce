"""Digests of a fixed set of files, which show whether a preprocessing still makes the same pixels.

The files cover each container, colour mode, bit depth, orientation, kind of transparency and
direction of resize, and include a few that must be rejected. They are stored as bytes in
`conformance_cases.zip`, so another Pillow version cannot encode them differently.

`decode/` cases digest the decoded image and `input/` cases the model input. The later steps
depend only on the decoded image, so a few `input/` sizes are enough; all cases together take
less than 100 ms of one core for a 224-pixel spec.
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

    A name such as "decode/png-grey16" says what is digested and what the file is. The bytes of a
    published name never change.
    """
    with ZipFile(CASES_FILE) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def conformance_digests(preprocessing: Preprocessing) -> dict[str, str]:
    """Decode or preprocess every file and describe the result.

    Returns:
        For each case, by name: the sha256 (hex) of dtype, shape and bytes of its image or
        input; "rejected:<code>" if the file is rejected; "raised:<type>" if a user's class
        raises an exception or returns an array that differs from its declaration.
    """
    cases = conformance_cases()
    return {name: _outcome(name, data, preprocessing) for name, data in cases.items()}


def differing_cases(expected: Mapping[str, str], actual: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the cases whose outcome in `actual` is missing or not the expected one.

    Cases that only `actual` has are ignored: a later release may add some.
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
