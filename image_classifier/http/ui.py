"""The page at /ui/: its files, and the JSON endpoints behind it."""

import asyncio
import logging
import re
import time
from collections import deque
from pathlib import Path
from typing import Any

import psutil
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from image_classifier.artifact.store import ModelLock
from image_classifier.errors import NotFound
from image_classifier.http.uploads import BodyBudget, read_upload
from image_classifier.inference import inspection
from image_classifier.inference.startup import START_STEPS
from image_classifier.settings import Settings

FILES = Path(__file__).resolve().parents[1] / "ui"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
READING = ["GET", "HEAD"]
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


def page_router(settings: Settings, lock: ModelLock, bodies: BodyBudget) -> APIRouter:
    """Return the routes of the page; `app.state` as for `create_app`."""
    router = APIRouter(prefix="/ui", include_in_schema=False)
    recent = RecentLines()
    logging.getLogger("classifier").addHandler(recent)
    one_at_a_time = asyncio.Semaphore(1)
    files = {
        path.relative_to(FILES).as_posix(): path
        for path in FILES.rglob("*")
        if path.suffix in MEDIA_TYPES
    }

    @router.api_route("", methods=READING)
    async def redirect_to_page() -> Response:
        return RedirectResponse("ui/")  # relative: a proxy may add a prefix

    @router.get("/api/inspection")
    async def inspect(request: Request) -> dict[str, Any]:
        state = request.app.state
        running = await state.classifier.runner.describe()
        verified = settings.public_key is not None
        return await asyncio.to_thread(
            inspection.describe, state.artifact, lock.tag, running, verified=verified
        )

    @router.get("/api/golden/{index}")
    async def golden_file(request: Request, index: int) -> Response:
        artifact = request.app.state.artifact
        _check_index(index, artifact.manifest.golden)
        path = artifact.path_of(artifact.manifest.golden[index].file)
        data = await asyncio.to_thread(path.read_bytes)
        return Response(data, media_type="application/octet-stream", headers=HEADERS)

    @router.post("/api/trace")
    async def trace_steps(request: Request) -> list[dict[str, Any]]:
        state = request.app.state
        state.classifier.refuse_if_overloaded()
        with bodies.hold() as reserve:
            upload = await read_upload(request, reserve, bodies.max_bytes)
            async with one_at_a_time:
                return await asyncio.to_thread(
                    inspection.describe_steps,
                    upload.image,
                    state.classifier.preprocessing,
                    state.artifact.manifest.input,
                    settings.decode_limits,
                )

    @router.post("/api/selfcheck/{index}")
    async def check_sample(request: Request, index: int) -> dict[str, Any]:
        state = request.app.state
        _check_index(index, state.artifact.manifest.golden)
        return await inspection.check_sample(state.artifact, state.classifier, index)

    @router.get("/api/start")
    async def describe_start(request: Request) -> dict[str, Any]:
        process = psutil.Process()
        in_runner = (await request.app.state.classifier.runner.describe()).start_steps
        steps = [(*step, "") for step in START_STEPS]
        steps += [(*step, "ModelRunner") for step in in_runner]
        began_at = min([process.create_time(), *(begin for _, begin, *_ in steps)])
        return {
            "process": process.pid,
            "uptime_s": time.time() - began_at,
            "steps": [(name, begin - began_at, *rest) for name, begin, *rest in steps],
            "lines": list(recent.lines),
        }

    @router.api_route("/{name:path}", methods=READING)
    async def page_file(name: str) -> Response:
        path = files.get(name or "index.html")
        if path is None:
            raise NotFound("no such file of the page")
        data = await asyncio.to_thread(path.read_bytes)
        return Response(data, media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)

    return router


def _check_index(index: int, golden: tuple[Any, ...]) -> None:
    if not 0 <= index < len(golden):
        raise NotFound("no such golden sample")
