"""Reads the image and `top_k` of a request, in memory and within limits."""

import asyncio
import logging
import re
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from image_classifier.errors import BodyTooSlow, MalformedRequest, Overloaded
from preprocessing.errors import FileTooLarge, UnsupportedImage

BODY_TIMEOUT_S = 60
"""Slower bodies are aborted with 408; otherwise an open connection would delay shutdown."""
EXPECTED = (
    "send the image file as the body (Content-Type image/* or application/octet-stream), "
    "or as the part `image` of a form (multipart/form-data)"
)
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else a line per malformed form


class Upload(NamedTuple):
    """The bytes of an image file, and `top_k` if the client sent one."""

    image: bytes
    top_k: int | None


class BodyBudget:
    """A limit on the bytes of request bodies that a process holds.

    Admission counts complete images only. Without this limit, slow clients could fill the memory
    with incomplete bodies: a hundred of 20 MB are 2 GB.

    Args:
        max_bytes: Limit for one body.
        max_total_bytes: Limit for all bodies together, from their first byte to their answer; a
            single body may exceed it.
    """

    def __init__(self, max_bytes: int, max_total_bytes: int) -> None:
        self.held = 0
        self.max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves bytes until the end of the block, or raises Overloaded."""
        own = 0

        def reserve(count: int) -> None:
            nonlocal own
            if self.held > own and self.held + count > self._max_total_bytes:
                error = Overloaded("the memory for request bodies is full; try again later")
                error.numbers = (
                    f"{self.held} bytes are held, {self._max_total_bytes} are allowed "
                    "(CLASSIFIER_MAX_BODIES_BYTES)"
                )
                raise error
            self.held += count
            own += count

        try:
            yield reserve
        finally:
            self.held -= own


async def read_upload(request: Request, reserve: Callable[[int], None], max_bytes: int) -> Upload:
    """Read the image and `top_k` from a request.

    Args:
        reserve: Called with the size of every chunk before it is stored.
        max_bytes: Limit for the body.

    Raises:
        MalformedRequest: A part is missing, repeated, unknown, or text instead of a file.
        UnsupportedImage: Neither a form nor a raw file, or compressed.
        FileTooLarge: The body, or its declared length, exceeds `max_bytes`.
        BodyTooSlow: The body took longer than `BODY_TIMEOUT_S`.
        Overloaded: Raised by `reserve`.
        starlette.requests.ClientDisconnect: The client closed the connection early.
    """
    top_ks = request.query_params.getlist("top_k")
    if unknown := sorted(request.query_params.keys() - {"top_k"}):
        raise MalformedRequest(f"unknown query parameter {unknown[0][:64]!r}; expected top_k")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedImage(
            f"the content encoding {encoding[:64]!r} is not supported; send the body as it is"
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    chunks = _chunks(request, reserve, max_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            # `curl -T` sends no content type; the decoder detects the format.
            if not kind or kind.endswith("/octet-stream") or kind.startswith("image/"):
                return await _raw_upload(chunks, top_ks)
            if kind == "multipart/form-data":
                return await _form_upload(request, chunks, top_ks)
    except TimeoutError as error:
        raise BodyTooSlow(f"the body took longer than {BODY_TIMEOUT_S} s") from error
    raise UnsupportedImage(f"the content type {kind[:64]!r} is not supported; {EXPECTED}")


async def _chunks(
    request: Request, reserve: Callable[[int], None], max_bytes: int
) -> AsyncGenerator[bytes]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise FileTooLarge(f"the body has {int(declared)} bytes, the limit is {max_bytes}")
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > max_bytes:
            raise FileTooLarge(f"the body has more than {max_bytes} bytes")
        reserve(len(chunk))
        yield chunk


async def _raw_upload(chunks: AsyncGenerator[bytes], top_ks: list[str]) -> Upload:
    image = b"".join([chunk async for chunk in chunks])
    if not image:
        raise MalformedRequest(f"the body is empty; {EXPECTED}")
    return Upload(image=image, top_k=_top_k(top_ks))


async def _form_upload(
    request: Request, chunks: AsyncGenerator[bytes], top_ks: list[str]
) -> Upload:
    try:
        form = await _FormParser(request.headers, chunks).parse()
    except MultiPartException as error:
        raise MalformedRequest("the form is not valid multipart/form-data") from error
    try:
        if unknown := sorted(form.keys() - {"image", "top_k"}):
            raise MalformedRequest(f"unknown part {unknown[0][:64]!r}; expected image, top_k")
        image = await _file(form.getlist("image"))
        fields = [part for part in form.getlist("top_k") if isinstance(part, str)]
        if len(fields) < len(form.getlist("top_k")):
            raise MalformedRequest("the part `top_k` is a file; expected a number")
        return Upload(image=image, top_k=_top_k([*top_ks, *fields]))
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """A form parser that keeps files in memory and rejects truncated forms.

    A part is a file if it has `filename`, `filename*`, or a Content-Type other than text or JSON.
    Starlette knows the first of these only.
    """

    spool_max_size = sys.maxsize
    _ended = False

    async def parse(self) -> FormData:
        self.stream = self._checked(self.stream)
        return await super().parse()

    async def _checked(self, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async for chunk in chunks:
            yield chunk
        if not self._ended:  # raised in here, so that Starlette closes the parts
            raise MalformedRequest("the form ends before its last boundary")

    def on_end(self) -> None:
        self._ended = True

    def on_headers_finished(self) -> None:
        part = self._current_part
        kind = dict(part.item_headers).get(b"content-type", b"text/plain").lower()
        disposition = part.content_disposition or b""
        if b"filename*=" in disposition.lower() or not kind.startswith(
            (b"text/", b"application/json")
        ):
            part.content_disposition = disposition + b'; filename=""'
        super().on_headers_finished()


async def _file(parts: list[UploadFile | str]) -> bytes:
    if len(parts) != 1:
        found = "is missing" if not parts else f"is given {len(parts)} times"
        raise MalformedRequest(f"the part `image` {found}; {EXPECTED}")
    # Text is never treated as a file; BentoML would fetch a URL in it.
    if isinstance(parts[0], str):
        raise MalformedRequest("the part `image` is text; expected a file")
    image = await parts[0].read()
    if not image:
        raise MalformedRequest("the part `image` is empty; expected a file")
    return image


def _top_k(values: list[str]) -> int | None:
    """Return the number that the query and the form give; they may both give it.

    `null` and an empty value, which Swagger UI sends for an empty field, count as absent.
    """
    numbers = {whole_number("top_k", text) for text in values if text not in ("", "null")}
    if len(numbers) > 1:
        raise MalformedRequest("top_k has several values; send it once")
    return numbers.pop() if numbers else None


def whole_number(name: str, text: str) -> int:
    """Return the number of 1 or more that a client sent as `name`."""
    if not re.fullmatch(r" *[0-9]{1,9} *", text) or not int(text):
        raise MalformedRequest(f"{name} is {text[:32]!r}; expected a whole number of 1 or more")
    return int(text)
