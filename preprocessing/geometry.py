"""Sizes and boxes of resize and centre crop, rounded as torchvision rounds them."""


def shorter_side_size(
    size: tuple[int, int], side: int, max_size: int | None = None
) -> tuple[int, int]:
    """Size after the shorter side became `side` pixels, with the longer one truncated.

    Equal to torchvision's `_compute_resized_output_size` (transforms/functional.py, 0.29).

    Args:
        size: (width, height).
        side: New length of the shorter side.
        max_size: Highest length of the longer side; where it would be exceeded, the shorter
            side becomes less than `side`.

    Returns:
        (width, height); a side can be 0 where `max_size` meets a very long picture.
    """
    width, height = size
    short, long = min(size), max(size)
    new_short, new_long = side, int(side * long / short)
    if max_size is not None and new_long > max_size:
        new_short, new_long = int(max_size * new_short / new_long), max_size
    return (new_short, new_long) if width <= height else (new_long, new_short)


def centre_crop_box(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int, int, int]:
    """Box (left, upper, right, lower) of a centre crop; outside the picture where it is larger.

    Equal to torchvision's `center_crop` (transforms/functional.py, 0.29), whose two roundings
    differ: inside the picture halves go to the even number, in the padding they are truncated.

    Args:
        size: (width, height) of the picture.
        crop: (width, height) of the crop.
    """
    left, upper = (_start(length, wanted) for length, wanted in zip(size, crop, strict=True))
    return left, upper, left + crop[0], upper + crop[1]


def _start(length: int, wanted: int) -> int:
    if wanted > length:
        return -((wanted - length) // 2)
    return round((length - wanted) / 2)
