"""Decoders of JPEG files to RGB arrays that Pillow is compared with."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

Decode = Callable[[bytes], np.ndarray[Any, np.dtype[np.uint8]]]


def available_decoders() -> dict[str, Decode]:
    """Decoders by name, those that are installed; each uses one thread."""
    decoders: dict[str, Decode] = {"Pillow": _pillow, "torchvision": _torchvision()}
    try:
        import simplejpeg  # type: ignore[import-not-found]

        decoders["simplejpeg"] = lambda data: simplejpeg.decode_jpeg(data, "RGB")
    except ImportError:
        pass
    try:
        import cv2  # type: ignore[import-not-found]

        cv2.setNumThreads(1)
        decoders["OpenCV"] = lambda data: cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB
        )
    except ImportError:
        pass
    return decoders


def _pillow(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(BytesIO(data)))


def _torchvision() -> Decode:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)

    def decode(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        array: np.ndarray[Any, np.dtype[np.uint8]] = (
            decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy()
        )
        return array

    return decode
