"""The page at /ui/: its files, and the JSON endpoints behind it."""

import asyncio
import logging
import mimetypes
import re
import time
from collections import deque
from pathlib import Path
from typing import Any

import psutil
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

from image_classifier.artifact.store import ModelLock
from image_classifier.errors import NotFound
from image_classifier.http import inspection
from image_classifier.http.uploads import BodyBudget, read_upload
from image_classifier.inference.startup import START_STEPS
from image_classifier.settings import Settings

FILES = Path(__file__).resolve().parents[1] / "ui"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class RecentLines(logging.Handler):
    """The last lines of the service's log, without tracebacks and directories."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=200)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        text = re.sub(r"(?<![\w.])/(?:[^\s/,'\"]+/)+", "…/", record.getMessage())
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        self.lines.append(f"{moment} {record.levelname} {text}")


class PageFiles(StaticFiles):
    """The files of the page."""

    def file_response(self, full_path: Any, *_: Any) -> Response:
        """Return the whole file: its ETag would be of size and time, equal in all bentos."""
        kind = mimetypes.guess_type(full_path)[0]
        return Response(Path(full_path).read_bytes(), headers=HEADERS, media_type=kind)


def add_page(app: FastAPI, settings: Settings, lock: ModelLock, bodies: BodyBudget) -> None:
    """Add the page to an application; `app.state` as for `create_app`."""
    state, router = app.state, APIRouter(prefix="/ui", include_in_schema=False)
    recent = RecentLines()
    logging.getLogger("classifier").addHandler(recent)
    one_at_a_time = asyncio.Semaphore(1)

    @router.api_route("", methods=["GET", "HEAD"])
    async def redirect_to_page() -> Response:
        return RedirectResponse("ui/")  # relative: a proxy may add a prefix

    def golden_index(text: str) -> int:
        indexes = map(str, range(len(state.artifact.manifest.golden)))
        if text not in indexes:
            raise NotFound("no such golden sample")
        return int(text)

    @router.get("/api/inspection")
    async def inspect() -> dict[str, Any]:
        running = await state.classifier.runner.describe()
        verified = settings.public_key is not None
        return await asyncio.to_thread(
            inspection.describe, state.artifact, lock.tag, running, verified=verified
        )

    @router.get("/api/golden/{index}")
    async def golden_file(index: str) -> Response:
        sample = state.artifact.manifest.golden[golden_index(index)]
        path = state.artifact.path_of(sample.file)
        data = await asyncio.to_thread(path.read_bytes)
        return Response(data, media_type="application/octet-stream", headers=HEADERS)

    @router.post("/api/trace")
    async def trace_steps(request: Request) -> list[dict[str, Any]]:
        state.classifier.refuse_if_overloaded()
        with bodies.hold() as reserve:
            upload = await read_upload(request, reserve, bodies.max_bytes)
            async with one_at_a_time:
                return await asyncio.to_thread(
                    inspection.describe_steps,
                    upload.image,
                    state.classifier.preprocessing,
                    settings.decode_limits,
                )

    @router.post("/api/selfcheck/{index}")
    async def check_sample(index: str) -> dict[str, Any]:
        number = golden_index(index)
        return await inspection.check_sample(state.artifact, state.classifier, number)

    @router.get("/api/start")
    async def describe_start() -> dict[str, Any]:
        process = psutil.Process()
        in_runner = (await state.classifier.runner.describe()).start_steps
        steps = [(*step, "") for step in START_STEPS]
        steps += [(*step, "ModelRunner") for step in in_runner]
        began_at = min([process.create_time(), *(begin for _, begin, *_ in steps)])
        return {
            "process": process.pid,
            "uptime_s": time.time() - began_at,
            "steps": [(name, begin - began_at, *rest) for name, begin, *rest in steps],
            "lines": list(recent.lines),
        }

    app.include_router(router)
    app.mount("/ui", PageFiles(directory=FILES, html=True))
