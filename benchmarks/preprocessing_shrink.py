"""How far an input moves when its JPEG is decoded at a fraction of its size."""

import numpy as np

from preprocessing import DecodeLimits, Preprocessing, decode_image
from preprocessing.user_class import image_to_input


def shrink_difference(data: bytes, preprocessing: Preprocessing, limits: DecodeLimits) -> float:
    """Highest absolute difference, over all pixels and channels, to a full decode.

    It is 0 where the rules do not shrink the file.

    Returns:
        In units of the input: 0 to 255 for uint8 inputs.

    Raises:
        ImageRejected: What is wrong with the file, as for `decode_image`.
    """
    full = preprocessing.decode.model_copy(update={"shrink_jpeg_to_side": None})
    of_shrunk, of_full = (
        image_to_input(decode_image(data, rules, limits), preprocessing).astype(np.float64)
        for rules in (preprocessing.decode, full)
    )
    return float(np.abs(of_shrunk - of_full).max())
