"""The HTTP edge: routes requests, renders answers and every error in one shape."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol

from image_classifier.errors import BodyTooSlow, MethodNotAllowed, NotFound, TemporaryError
from image_classifier.http import page
from image_classifier.http.bodies import BodyMemory, Take, read_body
from image_classifier.http.messages import (
    ClientGone,
    Message,
    Receive,
    Scope,
    Send,
    header,
    send_body,
    send_json,
)
from image_classifier.http.metrics import RequestMetrics
from image_classifier.http.schemas import ERRORS, INTERNAL_ERROR
from image_classifier.http.uploads import Upload, upload_from
from image_classifier.inference.batcher import Answer
from image_classifier.inference.classifier import Classifier
from preprocessing.errors import ClientError

logger = logging.getLogger("classifier")

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Endpoint = Callable[[Scope, Receive, Send, str], Awaitable[None]]
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
READING = {"GET", "HEAD"}
FRAMEWORK_PATHS = {"/livez", "/healthz", "/metrics", "/schema.json", *page.FILES}
"""What BentoML answers. No folders: it makes a metric series of each path below one."""
PROBE = "/readyz"
BODY_TIMEOUT_S = 60
"""A body that takes longer is given up: its connection would hold back the end of the server."""


class WrongMethod(MethodNotAllowed):
    """A method that a path does not take; `allow` names those it takes."""

    def __init__(self, path: str, methods: set[str]) -> None:
        self.allow = ", ".join(sorted(methods))
        super().__init__(f"{path} takes {self.allow}")


class ClassifierService(Protocol):
    """What the edge needs of the service."""

    metrics: RequestMetrics
    classifier: Classifier

    async def check_ready(self) -> None:
        """Raise NotReady where a request could not be answered at present."""

    async def model_card(self) -> dict[str, Any]:
        """What is loaded, as JSON."""

    def openapi(self) -> dict[str, Any]:
        """The document of /docs.json."""

    @property
    def model_reference(self) -> dict[str, str]:
        """Tag and digest, for every answer."""


class Edge:
    """The outermost ASGI application: our paths are answered here, BentoML's are passed on.

    Not `@bentoml.api`, because of what BentoML 1.4.39 does with an upload: it takes a form or a
    raw body but not both on one path, copies files to disk on the event loop, fetches a URL
    given in place of a file, makes a metric series of each path a client thinks of, has four
    shapes of error, and costs about 1 ms of processor time a request (docs/architecture.md).

    Args:
        app: BentoML's application.
        service: Returns the service instance of this process.
        max_body_bytes: Larger bodies are refused.
        max_bodies_bytes: Of all bodies at a time; see `BodyMemory`.
    """

    def __init__(
        self,
        app: App,
        *,
        service: Callable[[], ClassifierService],
        max_body_bytes: int,
        max_bodies_bytes: int,
    ) -> None:
        self._app = app
        self._service = service
        self._max_body_bytes = max_body_bytes
        self._memory = BodyMemory(max_bodies_bytes)
        self._routes = {
            "/classify": ({"POST", "PUT"}, self._classify),
            "/": (READING, self._page),
            "/model": (READING, self._model),
            "/docs.json": (READING, self._docs),
            PROBE: (READING, self._ready),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["path"] in FRAMEWORK_PATHS and scope["method"] in READING:
            await self._app(scope, receive, send)
        elif scope["path"] == PROBE:  # not counted: nobody waits for its answer
            await self._answer(scope, receive, send)
        else:
            metrics = self._service().metrics
            metrics.begin()
            outcome = INTERNAL_ERROR
            try:
                outcome = await self._answer(scope, receive, send)
            finally:
                metrics.end(outcome)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> str:
        """Returns what became of the request: "ok", "client_gone" or the code of the error."""
        request_id = _request_id(scope)
        try:
            endpoint = self._endpoint(scope)
            await endpoint(scope, receive, send, request_id)
        except ClientGone:
            return "client_gone"
        except ClientError as error:
            await _send_error(send, error, request_id)
            return error.code
        # A bug: the client learns no more than the request id, the log has the rest.
        except Exception:
            logger.exception("request %s failed", request_id)
            body = _error_body(INTERNAL_ERROR, "the service failed; its log says why", request_id)
            await send_json(
                send, HTTPStatus.INTERNAL_SERVER_ERROR, body, {"x-request-id": request_id}
            )
            return INTERNAL_ERROR
        return "ok"

    def _endpoint(self, scope: Scope) -> Endpoint:
        path = scope["path"]
        if path in FRAMEWORK_PATHS:
            raise WrongMethod(path, READING)
        if path not in self._routes:
            raise NotFound("no such path; / lists them")
        methods, endpoint = self._routes[path]
        if scope["method"] not in methods:
            raise WrongMethod(path, methods)
        return endpoint

    async def _classify(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        begun = time.perf_counter()
        service = self._service()
        # Before the body: to receive and read what is then refused costs what others wait for.
        service.classifier.refuse_if_overloaded()
        with self._memory.hold() as take:
            upload = await self._upload(scope, receive, take)
            work = service.classifier.classify(upload.image, upload.top_k)
            answer = await _unless_gone(receive, work)
        value = {
            "predictions": [
                {"label": one.label, "class_id": one.class_id, "probability": one.probability}
                for one in answer.predictions
            ],
            "model": service.model_reference,
            "request_id": request_id,
        }
        timing = (
            f"decode;dur={answer.decode_ms:.2f}, queue;dur={answer.queue_ms:.2f}, "
            f"infer;dur={answer.infer_ms:.2f}"
        )
        headers = {"x-request-id": request_id, "server-timing": timing}
        await send_json(send, HTTPStatus.OK, value, headers)
        service.metrics.classified(answer, time.perf_counter() - begun)

    async def _upload(self, scope: Scope, receive: Receive, take: Take) -> Upload:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await read_body(scope, receive, self._max_body_bytes, take)
        except TimeoutError as error:
            raise BodyTooSlow(f"the body took longer than {BODY_TIMEOUT_S} s") from error
        return upload_from(scope, body)

    async def _page(self, _: Scope, __: Receive, send: Send, request_id: str) -> None:
        headers = {"x-request-id": request_id}
        await send_body(
            send, HTTPStatus.OK, ("text/html; charset=utf-8", page.PAGE.encode()), headers
        )

    async def _ready(self, _: Scope, __: Receive, send: Send, request_id: str) -> None:
        await self._service().check_ready()
        await send_body(send, HTTPStatus.OK, ("text/plain", b"\n"), {"x-request-id": request_id})

    async def _model(self, _: Scope, __: Receive, send: Send, request_id: str) -> None:
        card = await self._service().model_card()
        await send_json(send, HTTPStatus.OK, card, {"x-request-id": request_id})

    async def _docs(self, _: Scope, __: Receive, send: Send, request_id: str) -> None:
        document = self._service().openapi()
        await send_json(send, HTTPStatus.OK, document, {"x-request-id": request_id})


async def _unless_gone(receive: Receive, work: Awaitable[Answer]) -> Answer:
    """Wait for the answer; cancel the work as soon as the client closes the connection."""
    waiting = asyncio.current_task()
    leaving = asyncio.ensure_future(receive())

    def stop(left: asyncio.Future[Message]) -> None:
        if waiting is not None and not left.cancelled():
            waiting.cancel()

    leaving.add_done_callback(stop)
    try:
        return await work
    except asyncio.CancelledError:
        # Ours, where the client has left; else the server's, which goes on to be raised.
        if waiting is not None and leaving.done() and waiting.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        leaving.remove_done_callback(stop)
        leaving.cancel()


def _request_id(scope: Scope) -> str:
    given = header(scope, b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


async def _send_error(send: Send, error: ClientError, request_id: str) -> None:
    headers = {"x-request-id": request_id}
    if isinstance(error, WrongMethod):
        headers["allow"] = error.allow
    if isinstance(error, TemporaryError):
        headers["retry-after"] = str(error.retry_after_s)
    status = ERRORS[error.code].status
    await send_json(send, status, _error_body(error.code, str(error), request_id), headers)


def _error_body(code: str, message: str, request_id: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "request_id": request_id}}
