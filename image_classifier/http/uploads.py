"""The image in a request: a form upload or the raw body."""

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from image_classifier.errors import MalformedRequest, UnsupportedMediaType
from image_classifier.http.messages import Scope, header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


RAW_TYPES = re.compile(r"image/[\w.+-]+|application/octet-stream|binary/octet-stream")
MAX_PARTS = 128
MAX_FIELD_BYTES = 1_024
EXPECTED = (
    "send the image file as the body (Content-Type image/* or application/octet-stream), "
    "or as the part `image` of a form (multipart/form-data)"
)
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else a line a malformed form


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a form.

    Attributes:
        filename: None for a plain field, which is never taken for a file.
    """

    name: str
    filename: str | None
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What a client wants classified.

    Attributes:
        image: Bytes of the image file.
        top_k: Number of predictions; None where the request does not say.
    """

    image: bytes
    top_k: int | None


def upload_from(scope: Scope, body: bytes) -> Upload:
    """Read the image and `top_k` from a request.

    Raises:
        MalformedRequest: A part is missing, doubled, unknown, or text where a file belongs.
        UnsupportedMediaType: Neither a form nor a raw file.
    """
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    top_k = _single(query.get("top_k", []), "top_k")
    if unknown := sorted(query.keys() - {"top_k"}):
        raise MalformedRequest(f"unknown query parameter {unknown[0][:64]!r}; top_k is known")
    content_type = header(scope, b"content-type")
    kind = (content_type or "").partition(";")[0].strip().lower()
    # curl -T sends no content type; what the bytes are is the decoder's to say.
    if not kind or RAW_TYPES.fullmatch(kind):
        if not body:
            raise MalformedRequest(f"the body is empty; {EXPECTED}")
        return Upload(image=body, top_k=_top_k(top_k))
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(f"the content type {kind[:64]!r} is not read; {EXPECTED}")
    parts = form_parts(content_type or "", body)
    if unknown := sorted({part.name for part in parts} - {"image", "top_k"}):
        raise MalformedRequest(f"unknown part {unknown[0][:64]!r}; expected image, top_k")
    image = _file([part for part in parts if part.name == "image"])
    field = _single([_text(part) for part in parts if part.name == "top_k"], "top_k")
    return Upload(image=image, top_k=_top_k(top_k if field is None else field))


def form_parts(content_type: str, body: bytes) -> list[Part]:
    """Parse a form held in memory; nothing is written to disk.

    Raises:
        MalformedRequest: Not a complete form.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedRequest("the content type multipart/form-data has no boundary")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedRequest("the form is not valid multipart/form-data") from error
    if not collector.ended:
        raise MalformedRequest("the form ends before its last boundary")
    return collector.parts


class _Collector:
    """Receives python-multipart's callbacks and gathers parts."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._data: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers, self._data = {}, []

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _end(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise MalformedRequest(f"the form has more than {MAX_PARTS} parts")
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        filename = options.get(b"filename")
        self.parts.append(
            Part(
                name=options.get(b"name", b"").decode("utf-8", "replace"),
                filename=None if filename is None else filename.decode("utf-8", "replace"),
                data=b"".join(self._data),
            )
        )

    def _finish(self) -> None:
        self.ended = True


def _file(parts: list[Part]) -> bytes:
    if len(parts) != 1:
        found = "is missing" if not parts else f"is given {len(parts)} times"
        raise MalformedRequest(f"the part `image` {found}; {EXPECTED}")
    # A part without a file name is text. BentoML would take a URL in it and fetch it.
    if parts[0].filename is None:
        raise MalformedRequest("the part `image` is text; expected a file")
    if not parts[0].data:
        raise MalformedRequest("the part `image` is empty; expected a file")
    return parts[0].data


def _text(part: Part) -> str:
    if part.filename is not None or len(part.data) > MAX_FIELD_BYTES:
        raise MalformedRequest(f"the part `{part.name}` is a file; expected a number")
    return part.data.decode("utf-8", "replace")


def _single(values: list[str], name: str) -> str | None:
    if len(values) > 1:
        raise MalformedRequest(f"{name} is given {len(values)} times")
    return values[0] if values else None


def _top_k(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or len(text) > 9:
        raise MalformedRequest(f"top_k is {text[:32]!r}; expected a number of 1 or more")
    return int(text)
