"""Every container, colour mode and bit depth → the pixels the file was built from."""

import struct
from io import BytesIO

import pytest
from PIL import Image, ImageCms

from preprocessing import DecodeRules
from preprocessing.errors import UndecodableImage
from tests.preprocessing.encoders import (
    PNG_GREY,
    PNG_GREY_ALPHA,
    PNG_PALETTE,
    PNG_RGB,
    PNG_RGBA,
    bmp,
    gif,
    gif_control,
    gif_frame,
    interlaced_png,
    jpeg_with_segment,
    jpeg_without_segment,
    png,
    png_chunk,
)
from tests.preprocessing.files import encoded, noise, pixels

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WHITE, BLACK, MAGENTA = (255, 255, 255), (0, 0, 0), (255, 0, 255)
DROP, ON_WHITE, ON_BLACK = DecodeRules(), DecodeRules(alpha="white"), DecodeRules(alpha="black")
GREY, CLIP = DecodeRules(mode="L"), DecodeRules(grey16="clip")
GREY_ON_BLACK = DecodeRules(mode="L", alpha="black")
APP2, ADOBE_APP14 = 0xE2, 0xEE

PALETTE = png_chunk(b"PLTE", bytes([*RED, *GREEN, *BLUE, *MAGENTA]))
BGR0 = bytes([0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0])  # red, green, blue
CROSSED = [[(x * 20, y * 30, 5) for x in range(11)] for y in range(7)]
PROFILE = png_chunk(b"iCCP", b"x\0\0damaged") + png_chunk(b"gAMA", struct.pack(">I", 10_000))


def grey(*values: int) -> list[list[tuple[int, ...]]]:
    """One row of grey pixels."""
    return [[(value,) * 3 for value in values]]


def png_row(depth: int, colour: int, row: bytes, width: int, extra: bytes = b"") -> bytes:
    return png((width, 1), depth, colour, [row], extra)


def transparent(*samples: int) -> bytes:
    """PNG chunk that names one transparent colour."""
    return png_chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))


GREY16 = png_row(16, PNG_GREY, struct.pack(">HHH", 0x00FF, 0x8000, 0xFFFF), 3)
GREY16_KEY = png_row(16, PNG_GREY, struct.pack(">HH", 25607, 50 << 8), 2, transparent(25607))
FOUR = bytes([0b00011011])  # indices 0, 1, 2, 3
PALETTE_ALPHA = png_row(
    2, PNG_PALETTE, FOUR, 4, PALETTE + png_chunk(b"tRNS", bytes([255, 51, 255, 0]))
)
COLOUR = png_row(8, PNG_RGB, bytes([*RED, *GREEN, *BLUE]), 3)
GREYS = [(value,) * 3 for value in range(128)]
GREY_FRAME = gif(
    (2, 1),
    [RED, GREEN],
    gif_frame((0, 0, 2, 1), bytes([7, 9]), gif_control(transparent=5), palette=GREYS),
)
GIF_CLEAR = gif(
    (3, 1),
    [RED, MAGENTA, BLUE],
    gif_frame((0, 0, 3, 1), bytes([2, 1, 0]), gif_control(transparent=1)),
)


def webp_alpha() -> bytes:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*MAGENTA, 0))
    return encoded(image, "WEBP", lossless=True, exact=True)


def webp_frames() -> bytes:
    first, second = (Image.new("RGB", (1, 1), colour) for colour in (RED, BLUE))
    return encoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)


LOSSLESS = [
    ("png-rgb", COLOUR, DROP, [[RED, GREEN, BLUE]]),
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B
    ("png-rgb", COLOUR, GREY, [[76, 150, 29]]),
    ("png-grey", png_row(8, PNG_GREY, bytes([7, 200]), 2), DROP, grey(7, 200)),
    ("png-grey1", png_row(1, PNG_GREY, bytes([0b10100000]), 3), DROP, grey(255, 0, 255)),
    ("png-grey2", png_row(2, PNG_GREY, FOUR, 3), DROP, grey(0, 85, 170)),  # thirds of 255
    ("png-grey4", png_row(4, PNG_GREY, bytes([0x01, 0xF0]), 3), DROP, grey(0, 17, 255)),
    ("png-grey16", GREY16, DROP, grey(0, 128, 255)),
    ("png-grey16", GREY16, GREY, [[0, 128, 255]]),
    ("png-grey16", GREY16, CLIP, grey(255, 255, 255)),
    (
        "png-rgb16",
        png_row(16, PNG_RGB, struct.pack(">HHH", 0x12FF, 0x8000, 0xFF00), 1),
        DROP,
        [[(0x12, 0x80, 0xFF)]],
    ),
    ("png-palette", png_row(2, PNG_PALETTE, FOUR, 4, PALETTE), DROP, [[RED, GREEN, BLUE, MAGENTA]]),
    # Entry 1 is transparent to four fifths, entry 3 wholly.
    ("png-palette-alpha", PALETTE_ALPHA, DROP, [[RED, GREEN, BLUE, MAGENTA]]),
    ("png-palette-alpha", PALETTE_ALPHA, ON_WHITE, [[RED, (204, 255, 204), BLUE, WHITE]]),
    ("png-palette-alpha", PALETTE_ALPHA, ON_BLACK, [[RED, (0, 51, 0), BLUE, BLACK]]),
    *(
        (f"png-{name}", png_row(8, kind, row, 2, key), rules, [expected])
        for name, kind, row, key, outcomes in [
            (
                "rgba",
                PNG_RGBA,
                bytes([*RED, 255, *MAGENTA, 0]),
                b"",
                {DROP: [RED, MAGENTA], ON_WHITE: [RED, WHITE], ON_BLACK: [RED, BLACK]},
            ),
            (
                "grey-alpha",
                PNG_GREY_ALPHA,
                bytes([100, 255, 100, 51]),
                b"",
                # 255 - (255 - 100) / 5 = 224
                {DROP: grey(100, 100)[0], ON_WHITE: grey(100, 224)[0], GREY_ON_BLACK: [100, 20]},
            ),
            (
                "one-transparent-grey",
                PNG_GREY,
                bytes([100, 50]),
                transparent(100),
                {DROP: grey(100, 50)[0], ON_WHITE: grey(255, 50)[0]},
            ),
            (
                "one-transparent-colour",
                PNG_RGB,
                bytes([*RED, *MAGENTA]),
                transparent(*MAGENTA),
                {DROP: [RED, MAGENTA], ON_BLACK: [RED, BLACK]},
            ),
        ]
        for rules, expected in outcomes.items()
    ),
    ("png-one-transparent-grey16", GREY16_KEY, DROP, grey(100, 50)),
    ("png-one-transparent-grey16", GREY16_KEY, ON_WHITE, grey(255, 50)),
    (
        "png-interlaced",
        interlaced_png([[bytes(pixel) for pixel in row] for row in CROSSED], PNG_RGB),
        DROP,
        CROSSED,
    ),
    (
        "png-profile-and-gamma",
        png_row(8, PNG_RGB, b"\x09\x08\x07", 1, PROFILE),
        DROP,
        [[(9, 8, 7)]],
    ),
    (  # rows from the bottom, channels BGR
        "bmp",
        bmp((2, 2), 24, bytes([*RED, *WHITE, 0, 0, *BLUE, *GREEN, 0, 0])),
        DROP,
        [[RED, GREEN], [BLUE, WHITE]],
    ),
    ("bmp-from-the-top", bmp((1, -2), 24, bytes([*BLUE, 0, *RED, 0])), DROP, [[RED], [BLUE]]),
    ("bmp-palette8", bmp((3, 1), 8, bytes([0, 1, 2, 0]), BGR0), DROP, [[RED, GREEN, BLUE]]),
    ("bmp-palette4", bmp((3, 1), 4, bytes([1, 32, 0, 0]), BGR0), DROP, [[RED, GREEN, BLUE]]),
    (  # 0RRRRRGGGGGBBBBB: 31 and 16 of 31
        "bmp-rgb16",
        bmp((1, 1), 16, (31 << 10 | 16).to_bytes(2, "little") + b"\0\0"),
        DROP,
        [[(255, 0, 16 * 255 // 31)]],
    ),
    (  # two red, one blue, next row, three green, end
        "bmp-run-lengths",
        bmp((3, 2), 8, bytes([2, 0, 1, 2, 0, 0, 3, 1, 0, 1]), BGR0, rle=1),
        DROP,
        [[GREEN] * 3, [RED, RED, BLUE]],
    ),
    ("gif-transparent", GIF_CLEAR, DROP, [[BLUE, MAGENTA, RED]]),
    ("gif-transparent", GIF_CLEAR, ON_WHITE, [[BLUE, WHITE, RED]]),
    (  # stored is every 8th row from 0, then from 4, every 4th, every 2nd
        "gif-interlaced",
        gif(
            (1, 9),
            GREYS,
            gif_frame((0, 0, 1, 9), bytes([0, 8, 4, 2, 6, 1, 3, 5, 7]), interlace=True),
        ),
        DROP,
        [[(value,) * 3] for value in range(9)],
    ),
    (
        "gif-of-two-frames",
        gif(
            (1, 1),
            [RED, GREEN],
            gif_frame((0, 0, 1, 1), bytes([0]), gif_control(disposal=2)),
            gif_frame((0, 0, 1, 1), bytes([1])),
        ),
        DROP,
        [[RED]],
    ),
    (
        "gif-damaged-after-the-first-frame",
        gif((1, 1), [RED, GREEN], gif_frame((0, 0, 1, 1), bytes([0])))[:-1] + b",damaged",
        DROP,
        [[RED]],
    ),
    *(("gif-grey-frame", GREY_FRAME, rules, grey(7, 9)) for rules in (DROP, ON_WHITE)),
    ("gif-grey-frame", GREY_FRAME, GREY, [[7, 9]]),
    ("webp-alpha", webp_alpha(), DROP, [[RED, MAGENTA]]),
    ("webp-alpha", webp_alpha(), ON_WHITE, [[RED, WHITE]]),
    ("webp-of-two-frames", webp_frames(), DROP, [[RED]]),
]


@pytest.mark.parametrize(("file", "rules", "expected"), [row[1:] for row in LOSSLESS], ids=[
    f"{name}-{rules.mode}-{rules.alpha}-{rules.grey16}" for name, _, rules, _ in LOSSLESS
])  # fmt: skip
def test_a_lossless_file_gives_the_pixels_it_was_built_from(file, rules, expected):
    assert pixels(file, rules) == expected


def inks(cyan: int, magenta: int, yellow: int, black: int) -> tuple[float, ...]:
    return tuple((255 - colour) * (255 - black) / 255 for colour in (cyan, magenta, yellow))


INK = (10, 60, 110, 40)  # C, M, Y, K, of 255
# With the Adobe marker Pillow stores inks inverted, as Photoshop does.
CMYK = encoded(Image.new("CMYK", (8, 8), INK), "JPEG", quality=100)
ADOBE_TRANSFORM = CMYK.index(b"Adobe") + 11
YCCK = CMYK[:ADOBE_TRANSFORM] + b"\2" + CMYK[ADOBE_TRANSFORM + 1 :]


def of_ycck() -> list[float]:
    """The coded numbers, which are the inverted inks, read as Y, Cb, Cr (ITU-T T.871) and K.

    They are an RGB picture whose complement, inverted again by the Adobe rule, is the inks.
    """
    y, cb, cr, black = (255 - ink for ink in INK)
    red = y + 1.402 * (cr - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    return [min(max(255 - value, 0), 255) * black / 255 for value in (red, green, blue)]


def jpeg(colour: tuple[int, int, int], **options: object) -> bytes:
    return encoded(Image.new("RGB", (16, 16), colour), "JPEG", quality=95, **options)


def two_pictures() -> bytes:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    file = BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second], quality=95)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(jpeg((200, 30, 60)), (200, 30, 60), id="jpeg"),
        pytest.param(jpeg((12, 240, 99), progressive=True), (12, 240, 99), id="progressive"),
        pytest.param(jpeg((12, 240, 99), subsampling=2), (12, 240, 99), id="subsampled"),
        pytest.param(jpeg((10, 130, 250), keep_rgb=True), (10, 130, 250), id="rgb-stored"),
        pytest.param(encoded(Image.new("L", (8, 8), 77), "JPEG"), (77, 77, 77), id="grey"),
        pytest.param(CMYK, inks(*INK), id="cmyk"),
        pytest.param(jpeg_without_segment(CMYK, ADOBE_APP14), inks(*INK), id="cmyk-without-adobe"),
        pytest.param(YCCK, of_ycck(), id="ycck"),
        pytest.param(two_pictures(), (200, 0, 0), id="first-of-two-pictures"),
        pytest.param(
            encoded(Image.new("RGB", (16, 16), (200, 30, 60)), "WEBP", quality=90),
            (200, 30, 60),
            id="webp",
        ),
    ],
)
def test_a_lossy_file_of_one_colour_has_it_but_for_the_rounding_of_the_coder(file, expected):
    assert pixels(file)[5][5] == pytest.approx(expected, abs=3)


def test_a_colour_profile_and_what_follows_the_end_change_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain = encoded(noise(16, 16), "JPEG")
    tagged = jpeg_with_segment(plain, APP2, b"ICC_PROFILE\0\1\1" + profile)

    assert pixels(tagged + b"after the end") == pixels(plain)


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_half_a_file_of_any_kind_is_refused(container):
    file = encoded(noise(40, 40), container)

    with pytest.raises(UndecodableImage):
        pixels(file[: len(file) // 2])


def test_more_transparencies_than_a_palette_has_entries_are_a_damaged_file():
    file = png_row(2, PNG_PALETTE, FOUR, 4, PALETTE + png_chunk(b"tRNS", bytes(300)))

    with pytest.raises(UndecodableImage):
        pixels(file, ON_WHITE)
