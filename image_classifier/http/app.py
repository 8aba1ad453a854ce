"""The HTTP application: its routes, and one shape for every error."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image_classifier.artifact.store import ModelLock
from image_classifier.errors import (
    DeadlineExceeded,
    NotFound,
    NotReady,
    Overloaded,
    TemporaryError,
)
from image_classifier.http.metrics import CLIENT_GONE, RequestMetrics
from image_classifier.http.schemas import (
    ERRORS,
    INTERNAL_ERROR,
    ClassifyAnswer,
    ErrorAnswer,
    ErrorDetail,
    ModelCard,
    ModelReference,
    describe_fields,
    error_responses,
)
from image_classifier.http.ui import add_page
from image_classifier.http.uploads import BodyBudget, read_upload, whole_number
from image_classifier.inference.batcher import Answer
from image_classifier.logs import ErrorLog
from image_classifier.settings import Settings
from preprocessing.errors import ClientError, UnsupportedImage

DESCRIPTION = """\
Classifies one image per request: JPEG, PNG, WebP, GIF or BMP (first frame).

Every error has the same shape: `{"error": {"code", "message", "request_id"}}`.
`/model` shows the loaded model, and the proof that its answers are those of the trained one.
`/livez` answers 200 while the engine works, `/readyz` while requests are answered; else 503.
"""
PAGE = "\n[The page](./ui/) classifies images and shows the model, its proof and live plots.\n"
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
error_log = ErrorLog()
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
ASSETS = ("/ui/", "/static_content/")
ANSWER_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
"""Browsers neither render answers as pages nor cache them."""
UNCOUNTED = re.compile(r"/(livez|healthz|readyz|metrics|schema\.json|static_content/.*|ui(/.*)?)")
"""Paths that are not counted as client requests: probes, scrapes, the page, Swagger UI's files."""


def create_app(settings: Settings, lock: ModelLock, metrics: RequestMetrics) -> FastAPI:
    """Return the application.

    Before the first request, set on `app.state`:
        classifier: The Classifier.
        artifact: Its artifact.
    A server can call, instead of the application:
        refuse: Takes the scope of a request; returns the 429 answer under overload, else None.
        reject: Takes the reason why a request cannot be read; returns the answer.
    """
    app = FastAPI(
        title="Image classifier",
        description=DESCRIPTION + (PAGE if settings.ui else ""),
        version=lock.tag,
        servers=[{"url": "."}],
        openapi_url="/docs.json",
        docs_url=None,  # FastAPI's own page loads Swagger UI from another server
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # 0.3 ms a request
        exception_handlers={
            ClientError: _client_error,
            HTTPException: _http_exception,
        },
    )
    app.add_middleware(RequestEnvelope, metrics=metrics)
    bodies = BodyBudget(settings.max_body_bytes, settings.max_bodies_bytes)
    model = ModelReference(tag=lock.tag, digest=lock.manifest_sha256)

    async def classify(request: Request) -> Response:
        """Classify one image.

        Send the file as the part `image` of a form, or as the body itself
        (`curl -T photo.jpg …/classify`, which sends PUT, works too). An `X-Request-Id` header is
        returned in the answer; `Server-Timing` has the milliseconds of decoding, waiting and
        inference. With `X-Request-Timeout-Ms`, a request that takes longer is answered 504, and
        no work is started for it afterwards.
        """
        classifier = app.state.classifier
        timeout_ms = request.headers.get(TIMEOUT_HEADER)
        timeout_s = None if timeout_ms is None else whole_number(TIMEOUT_HEADER, timeout_ms) / 1e3
        # Before the body: receiving a body only to refuse it would delay other requests.
        classifier.refuse_if_overloaded()
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                with bodies.hold() as reserve:
                    upload = await read_upload(request, reserve, bodies.max_bytes)
                    begun = time.perf_counter()  # a slow upload is not a slow service
                    work = classifier.classify(upload.image, upload.top_k)
                    answer: Answer = await _unless_disconnected(request.receive, work)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            message = f"no answer within {timeout_ms} ms ({TIMEOUT_HEADER})"
            raise DeadlineExceeded(message) from error
        metrics.classified(answer, time.perf_counter() - begun)
        body = ClassifyAnswer(
            predictions=answer.predictions,
            threshold=classifier.outputs.threshold,
            model=model,
            request_id=request.state.request_id,
        )
        timing = (
            f"decode;dur={answer.decode_ms:.2f}, queue;dur={answer.queue_ms:.2f}, "
            f"infer;dur={answer.infer_ms:.2f}"
        )
        return Response(
            body.model_dump_json(), headers={"server-timing": timing}, media_type="application/json"
        )

    # Without `default`: Swagger UI and generated clients would send it in both query and form, in
    # conflict with the number a user sets in one of them.
    top_k: dict[str, Any] = {
        "type": "integer",
        "minimum": 1,
        "description": f"Number of predictions. When not given: {settings.default_top_k}, or all "
        "classes if fewer; with a threshold, all labels that reach it.",
    }
    operations = {"POST": "classify", "PUT": "classify_put"}
    for method, operation_id in operations.items():
        app.router.add_api_route(
            "/classify",
            classify,
            methods=[method],
            operation_id=operation_id,
            tags=["Classify"],
            response_model=ClassifyAnswer,
            response_description="The predictions.",
            responses=error_responses(),
            # By hand: FastAPI would read the body for its own parameters before the handler runs.
            openapi_extra=_classify_request(top_k),
            route_class_override=DirectRoute,
        )

    def refuse(scope: Scope) -> Response | None:
        if scope["path"] != "/classify" or scope["method"] not in operations:
            return None
        try:
            app.state.classifier.refuse_if_overloaded()
        except Overloaded as error:
            return early_response(scope, error)
        return None

    def early_response(scope: Scope, error: ClientError) -> Response:
        request_id = _identify(scope)
        metrics.count(error.code)
        response = _client_error_response(Request(scope), error)
        response.raw_headers += _common_headers(scope, request_id)
        return response

    app.state.refuse = refuse
    app.state.reject = lambda error: early_response(
        {"type": "http", "path": "", "headers": []}, error
    )

    @app.head("/model", include_in_schema=False)
    @app.get(
        "/model",
        tags=["Operate"],
        response_description="The model.",
        responses=error_responses("not_ready", INTERNAL_ERROR),
    )
    async def describe_model() -> ModelCard:
        """Describe the loaded model and the certificate of its engine."""
        artifact, runner = app.state.artifact, app.state.classifier.runner
        plan = (await runner.describe()).plan
        topology = "runner" if runner.executor is None else "embedded"
        return ModelCard.of(lock, artifact, plan, topology)

    @app.get(
        "/metrics",
        tags=["Operate"],
        response_class=PlainTextResponse,
        response_description="All metrics of this server.",
    )
    def expose_metrics() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def swagger_ui() -> Response:
        """Show Swagger UI, from files of this server only."""
        files = "./static_content"  # BentoML's, whose own page loads Google Tag Manager
        return get_swagger_ui_html(
            openapi_url="./docs.json",
            title=app.title,
            swagger_js_url=f"{files}/swagger-ui-bundle.js",
            swagger_css_url=f"{files}/swagger-ui.css",
            swagger_favicon_url=f"{files}/favicon-light-32x32.png",
        )

    if settings.ui:  # last: routes are tried in order, and /classify is the busiest
        add_page(app, settings, lock, bodies)

    def openapi() -> dict[str, Any]:
        top_k["maximum"] = app.state.classifier.num_classes  # known once the model is loaded
        document = FastAPI.openapi(app)
        describe_fields(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _classify_request(top_k: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a /classify request; `top_k` is that parameter's schema."""
    image = {"type": "string", "format": "binary", "description": "The image file."}
    form = {"type": "object", "required": ["image"], "properties": {"image": image, "top_k": top_k}}
    return {
        "parameters": [
            {"name": "top_k", "in": "query", "schema": top_k},
            {
                "name": TIMEOUT_HEADER,
                "in": "header",
                "schema": {
                    "type": "integer",
                    "minimum": 1,
                    "description": "Milliseconds the client waits for an answer.",
                },
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/octet-stream": {"schema": image},
                "image/*": {"schema": image},
            },
        },
    }


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and returns the response.

    FastAPI's routes look for the endpoint's dependencies in each request, 2 % of its time.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint."""
        return self.endpoint


class RequestEnvelope:
    """Gives each request an id, counts its outcome, and answers bugs with 500.

    A pure ASGI middleware around all routes. `ClassifierProtocol` lets only HTTP requests through.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request, request_id = Request(scope), _identify(scope)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *_common_headers(scope, request_id)]
            await send(message)

        counted = not UNCOUNTED.fullmatch(scope["path"])
        if counted:
            self._metrics.begin()
        outcome = INTERNAL_ERROR
        try:
            await self._app(scope, receive, send_with_id)
            outcome = request.state.outcome
        except ClientDisconnect:
            outcome = CLIENT_GONE
        # A bug: the client gets the request id only, the log has the traceback.
        except Exception as error:
            message = "internal error; see the service log"
            response = _error_response(request, INTERNAL_ERROR, message, cause=error)
            if not started:
                await response(scope, receive, send_with_id)
        finally:
            if counted:
                self._metrics.end(outcome)


def _identify(scope: Scope) -> str:
    """Store the client's request id, or a generated one, in a request's state; return it."""
    chosen = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    request_id = chosen.decode("latin-1")
    if not REQUEST_ID.fullmatch(request_id):
        request_id = f"{random.getrandbits(128):032x}"
    scope.setdefault("state", {}).update(request_id=request_id, outcome="ok")
    return request_id


def _common_headers(scope: Scope, request_id: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of every answer."""
    headers = () if scope["path"].startswith(ASSETS) else ANSWER_HEADERS
    return [(b"x-request-id", request_id.encode()), *headers]


async def _unless_disconnected(receive: Receive, work: Awaitable[Answer]) -> Answer:
    """Return the answer; cancel the work as soon as the client closes the connection."""
    waiting = asyncio.current_task()
    disconnect = asyncio.ensure_future(receive())

    def cancel_work(received: asyncio.Future[Message]) -> None:
        if waiting is not None and not received.cancelled():
            waiting.cancel()

    disconnect.add_done_callback(cancel_work)
    try:
        return await work
    except asyncio.CancelledError:
        # Translate our own cancellation; the server's propagates.
        if waiting is not None and disconnect.done() and waiting.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        disconnect.remove_done_callback(cancel_work)
        disconnect.cancel()


def _error_response(
    request: Request,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
    numbers: str = "",
    cause: Exception | None = None,
) -> Response:
    request.state.outcome = code
    request_id, status = request.state.request_id, ERRORS[code].status
    if request.scope["path"] != "/readyz":  # not ready yet at every start: no event
        logged = f"{message} ({numbers})" if numbers else message
        error_log.note(request_id=request_id, status=status, code=code, message=logged, cause=cause)
    detail = ErrorDetail(code=code, message=message, request_id=request_id)
    return Response(
        ErrorAnswer(error=detail).model_dump_json(),
        status,
        headers,
        media_type="application/json",
    )


async def _client_error(request: Request, error: ClientError) -> Response:
    return _client_error_response(request, error)


def _client_error_response(request: Request, error: ClientError) -> Response:
    headers = {}
    if isinstance(error, TemporaryError):
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, UnsupportedImage):
        headers["accept-encoding"] = "identity"  # RFC 9110, section 15.5.16
    numbers = error.numbers if isinstance(error, Overloaded) else ""
    return _error_response(request, error.code, str(error), headers, numbers)


async def _http_exception(request: Request, error: HTTPException) -> Response:
    """Answer errors that Starlette and BentoML raise with the codes of the table."""
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return _error_response(request, NotFound.code, "no such path; / lists them")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            # The exception's own header names the methods of one of the path's routes only.
            methods = {
                method
                for route in request.app.routes
                if getattr(route, "path", None) == request.url.path
                for method in getattr(route, "methods", None) or ()
            }
            allow = ", ".join(sorted(methods)) or "GET, HEAD"  # a static file
            message = f"the path takes {allow}"  # without the path: it would forge log lines
            return _error_response(request, "method_not_allowed", message, {"allow": allow})
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return await _client_error(request, NotReady("the model cannot be reached; try again"))
    raise error
