"""The HTTP edge: routes requests, renders answers and every error in one shape."""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol

from errors import ClientVisibleError, MethodNotAllowed, NotFound
from inference.classifier import Answer
from web.messages import ClientGone, Receive, Scope, Send, header, read_body, send_json
from web.uploads import upload_from

logger = logging.getLogger("classifier")

App = Callable[[Scope, Receive, Send], Awaitable[None]]
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
FRAMEWORK_PATHS = {"/", "/livez", "/healthz", "/readyz", "/metrics", "/schema.json"}
FRAMEWORK_FOLDERS = ("/static_content/", "/assets/")


class ClassifierService(Protocol):
    """What the edge needs of the service."""

    async def answer(self, image: bytes, top_k: int | None) -> Answer:
        """Classify one image file."""

    async def model_card(self) -> dict[str, Any]:
        """What is loaded, as JSON."""

    def openapi(self) -> dict[str, Any]:
        """The document of /docs.json."""

    @property
    def model_reference(self) -> dict[str, str]:
        """Tag and digest, for every answer."""


class Edge:
    """ASGI middleware: the service's own paths are answered here, BentoML's are passed on.

    A middleware and not `@bentoml.api`, because of what BentoML 1.4.39 does with an upload:
    it takes either a form or a raw body, copies a file to disk on the event loop, fetches a
    URL given in place of a file, and has four shapes of error (docs/architecture.md).

    Args:
        service: Returns the service instance of this process; called once it is loaded.
        max_body_bytes: Larger bodies are refused.
    """

    def __init__(
        self,
        app: App,
        *,
        service: Callable[[], ClassifierService],
        max_body_bytes: int,
    ) -> None:
        self._app = app
        self._service = service
        self._max_body_bytes = max_body_bytes
        self._routes = {
            "/classify": ({"POST", "PUT"}, self._classify),
            "/model": ({"GET"}, self._model),
            "/docs.json": ({"GET"}, self._docs),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path in FRAMEWORK_PATHS or path.startswith(FRAMEWORK_FOLDERS):
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        try:
            methods, endpoint = self._route(path)
            if scope["method"] not in methods:
                raise MethodNotAllowed(f"{path} takes {', '.join(sorted(methods))}")
            await endpoint(scope, receive, send, request_id)
        except ClientGone:
            return
        except ClientVisibleError as error:
            await _send_error(send, error, request_id)
        # A bug: the client learns no more than the request id, the log has the rest.
        except Exception:
            logger.exception("request %s failed", request_id)
            await send_json(
                send,
                HTTPStatus.INTERNAL_SERVER_ERROR,
                _error_body("internal_error", "the service failed; the log says why", request_id),
                {"x-request-id": request_id},
            )

    def _route(self, path: str) -> tuple[set[str], Callable[..., Awaitable[None]]]:
        if path not in self._routes:
            raise NotFound("no such path; / lists them")
        return self._routes[path]

    async def _classify(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        body = await read_body(scope, receive, self._max_body_bytes)
        upload = upload_from(scope, body)
        service = self._service()
        answer = await _unless_gone(receive, service.answer(upload.image, upload.top_k))
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

    async def _model(self, _: Scope, __: Receive, send: Send, request_id: str) -> None:
        card = await self._service().model_card()
        await send_json(send, HTTPStatus.OK, card, {"x-request-id": request_id})

    async def _docs(self, _: Scope, __: Receive, send: Send, request_id: str) -> None:
        await send_json(
            send, HTTPStatus.OK, self._service().openapi(), {"x-request-id": request_id}
        )


async def _unless_gone(receive: Receive, work: Awaitable[Answer]) -> Answer:
    """Wait for the answer; cancel the work as soon as the client closes the connection."""
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientGone
        return answering.result()
    finally:
        leaving.cancel()
        answering.cancel()


def _request_id(scope: Scope) -> str:
    given = header(scope, b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


async def _send_error(send: Send, error: ClientVisibleError, request_id: str) -> None:
    headers = {"x-request-id": request_id}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    await send_json(send, error.status, _error_body(error.code, str(error), request_id), headers)


def _error_body(code: str, message: str, request_id: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "request_id": request_id}}
