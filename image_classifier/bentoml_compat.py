"""Every workaround for BentoML 1.4.40 and the uvicorn it starts.

Each says what BentoML does, why that does not fit, and until when the workaround is needed.
tests/test_bentoml_compat.py has a test for each that fails once BentoML no longer does it.
"""

import asyncio
import atexit
import ctypes
import errno
import functools
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from image_classifier.errors import NotReady
from image_classifier.http.schemas import ErrorAnswer, ErrorDetail
from preprocessing.errors import OperatorError

logger = logging.getLogger("classifier")

API_CONFIG: dict[str, Any] = {
    "traffic": {"timeout": 60},
    # Makes a series of each path a client thinks of, and would occupy /metrics.
    # Until: series have a fixed set of labels.
    "metrics": {"enabled": False},
    # Its readiness probe of a dead runner hangs for `traffic.timeout`: `is_ready` does not catch
    # its own time limit (_bentoml_impl/client/proxy2.py). `__is_ready__` asks in its place.
    # Until: `is_ready` catches TimeoutError.
    "runner_probe": {"enabled": False},
    "logging": {"access": {"enabled": False}},  # a line for every file of Swagger UI
}
"""Configuration of the service that answers HTTP."""
KEEP_CONNECTIONS = {"max_requests": 2**31 - 1, "max_age": 1e9}
"""`runner_connection` of a service that others call: never renew the connections.

BentoML makes its client to the runner anew every 100 requests and closes the old one with all
calls in flight, which fail: 1 to 20 % of the requests (BentoML issue 5540).
Until: the issue is fixed."""


class MountedAppFirst(Service[Any]):  # type: ignore[misc]  # BentoML's is untyped
    """A service whose mounted application answers before BentoML's own routes.

    `service_class` of `bentoml.service` takes it. BentoML puts `@bentoml.api` routes first, so
    that POST /classify would go to its parser, which writes uploads to temporary files and
    fetches URLs given in place of files; and its middlewares cost more than our whole request.
    Paths that the application does not have are handed on to BentoML (/livez, /readyz,
    /schema.json, Swagger UI's files, further mounts); its errors get the application's shape.
    Until: a mounted application can be put before the routes of the APIs.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Return the application that a worker serves."""
        framework: Starlette = super().to_asgi(is_main)
        if not is_main:
            return framework
        app: Starlette = self.mount_apps[0][0]
        framework.exception_handlers.update(app.exception_handlers)

        async def hand_on(scope: Scope, receive: Receive, send: Send) -> None:
            if any(route.matches(scope)[0] is not Match.NONE for route in framework.routes):
                await framework(scope, receive, send)
            else:
                await app.router.not_found(scope, receive, send)

        app.router.default = hand_on
        answer: ASGIApp = app
        if BentoMLContainer.http.cors.enabled.get():  # BentoML's setting holds for our paths too
            options: dict[str, Any] = BentoMLContainer.access_control_options.get()
            answer = CORSMiddleware(app, **options)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await (framework if scope["type"] == "lifespan" else answer)(scope, receive, send)

        return serve


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise what BentoML prints in one line, with exit status 1, for an OperatorError."""
    try:
        yield
    except OperatorError as error:
        raise BentoMLException(str(error)) from error


SUPERVISOR = "IMAGE_CLASSIFIER_SUPERVISOR"
"""Environment variable, inherited by the workers: the supervisor's process id, a colon, and the
folder in which a worker that fails leaves its message."""
MESSAGE = "message"


def prepare_process() -> None:
    """Call at the import of the service module, in every process.

    - Metrics: BentoML empties `BENTOML_HOME/prometheus_multiproc_dir` at each start, so a second
      server, even one that fails to start, silences the first. The supervisor gets a folder of
      its own. Until: BentoML has one for each server.
    - Telemetry: BentoML reports its use unless told otherwise; say BENTOML_DO_NOT_TRACK=False to
      allow it. Until: BentoML asks.
    - GPUs: BentoML gives the entry service the first ones, and each worker of the runner all of
      its own, by indices that fit neither UUIDs nor slices (MIG). `service.py` chooses.
      Until: each worker of a service gets a GPU of its own.
    - Orphans: the workers of a supervisor that is killed would go on to hold the port.
      Until: BentoML issue 4193.
    """
    from bentoml._internal.utils.analytics import usage_stats

    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        home = BentoMLContainer.bentoml_home.get()
        folder = Path(home, "prometheus_multiproc_dir", str(os.getpid()))
        BentoMLContainer.prometheus_multiproc_dir.set(str(folder))
    if "BENTOML_DO_NOT_TRACK" not in os.environ:
        os.environ["BENTOML_DO_NOT_TRACK"] = "True"
        usage_stats.do_not_track.cache_clear()
    os.environ.setdefault("BENTOML_DISABLE_GPU_ALLOCATION", "True")
    if SUPERVISOR in os.environ:
        _end_with_supervisor(int(os.environ[SUPERVISOR].partition(":")[0]))


def _end_with_supervisor(supervisor: int) -> None:
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != supervisor:  # it had ended before
            sys.exit("image_classifier: the supervisor has ended")


def configure_uvicorn(keep_alive_s: float) -> None:
    """Have uvicorn, which BentoML starts without a choice of protocol, use ours in this process.

    It ignores `Upgrade` and keeps idle connections open for `keep_alive_s`: BentoML passes 5 s,
    less than load balancers and its own client to the runner keep them (60 s, 15 s), which then
    send a request on a connection that is being closed.
    Until: uvicorn reads the body of a request whose upgrade it does not know (uvicorn issue 2722),
    and BentoML has a setting for all its processes.
    """
    if SUPERVISOR not in os.environ:  # the supervisor, which answers no requests
        return
    from uvicorn.config import HTTP_PROTOCOLS

    from image_classifier.http.protocol import ClassifierProtocol

    HTTP_PROTOCOLS["auto"] = ClassifierProtocol  # type: ignore[assignment]  # or a class
    if "--timeout-keep-alive" not in sys.argv:  # of `bentoml serve`: the operator's word
        ClassifierProtocol.keep_alive_s = keep_alive_s


def prepare_supervisor(service: Service[Any], *, with_runner: bool) -> None:
    """Call in the supervisor, before workers start.

    Args:
        service: The service that answers HTTP.
        with_runner: The runner has a process of its own. BentoML starts one for every dependency
            it finds here; without this one, the workers make the runner in place.
            Until: dependencies can be optional.
    """
    from bentoml._internal.utils.circus import Arbiter  # of no use in a worker

    try:
        folder = tempfile.mkdtemp(prefix="image-classifier-")
    except OSError as error:
        raise BentoMLException(f"{error}; set TMPDIR to a directory that can be written") from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    metrics = BentoMLContainer.prometheus_multiproc_dir.get()
    atexit.register(shutil.rmtree, metrics, ignore_errors=True)
    os.environ[SUPERVISOR] = f"{os.getpid()}:{folder}"
    signal.signal(signal.SIGUSR1, _stop)
    supervise(Arbiter)
    if not with_runner:
        service.dependencies.pop("runner", None)


def stop_server_on_failure(
    start: Callable[[Any], None],
) -> Callable[[Any], None]:
    """Decorate the constructor of a service: an exception in it stops the server with one line.

    BentoML starts a worker that fails anew for ever, with the port open.
    Until: BentoML stops a server whose workers cannot start.
    """

    @functools.wraps(start)
    def guarded(self: Any) -> None:
        try:
            start(self)
        # Whatever a model, an engine or a user's own class raises: a broken start is no start.
        except Exception as error:
            if not _has_supervisor():
                raise
            _leave_message(error, Path(os.environ[SUPERVISOR].partition(":")[2]))
            os.kill(os.getppid(), signal.SIGUSR1)
            os._exit(1)

    return guarded


def _has_supervisor() -> bool:
    """Return False in tests and other in-process use of the services."""
    return os.environ.get(SUPERVISOR, "").partition(":")[0] == str(os.getppid())


def _leave_message(error: Exception, folder: Path) -> None:
    text = str(error)
    if not isinstance(error, OperatorError):
        text = f"the start failed: {type(error).__name__}: {' '.join(text.split())}"
    draft = folder / f"{MESSAGE}.{os.getpid()}"
    draft.write_text(f"image_classifier: {text}\n", encoding="utf-8")
    with suppress(FileExistsError):  # another worker was first, mostly with the same message
        os.link(draft, folder / MESSAGE)


def _stop(_signal: int, _frame: object) -> None:
    folder = os.environ[SUPERVISOR].partition(":")[2]
    message = Path(folder, MESSAGE)
    if not message.exists():  # somebody else's signal
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.stderr.write(message.read_text(encoding="utf-8"))
    sys.stderr.flush()
    atexit.register(_leave, folder)  # the supervisor's own way out ends with status 0
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(BentoMLContainer.prometheus_multiproc_dir.get(), ignore_errors=True)
    os._exit(1)


ADDRESS_ERRORS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
API_PROCESSES = "service"
LISTENING_SOCKET = "_bento_api_server"
"""BentoML's names for the processes of the entry service and for their socket
(_bentoml_impl/server/serving.py)."""


def supervise(supervisor: type[Any]) -> None:
    """Amend what BentoML's supervisor does.

    - It removes the directory of the runner's socket and then stops all processes at once
      (bentoml/_internal/utils/circus, `Arbiter.stop`): what an API process had accepted and not
      yet sent to the runner was lost (tests/service/test_stopping.py). Here the API processes end
      first. Until: BentoML stops processes in the order of their dependencies.
    - It holds the port open while no API process accepts: at the start, at the end, and while a
      new one replaces one that died. Clients and probes then hang. Here they are answered 503.
      Until: BentoML closes the port while nobody answers.
    - It ends with a traceback where the port is taken. Until: it says so in one line.
    - It says nothing of a process that died, and looks for one every 10 s only.
      Until: BentoML logs and replaces it at once.

    Args:
        supervisor: The class whose `start` and `stop` run the server; a circus arbiter.
    """
    from tornado import gen  # of no use in a worker

    start_all, stop_all = supervisor.start, supervisor.stop
    stand_in = StandIn()
    signal.signal(signal.SIGUSR2, lambda *_: stand_in.end_soon())  # see `tell_supervisor_ready`

    # circus' own line, written twice, about a port that is taken; `start` says it better
    logging.getLogger("circus").addFilter(lambda record: "not bind" not in record.getMessage())

    def start(self: Any, cb: Callable[[Any], Any] | None = None) -> Any:
        def died(watcher: Any, process_pid: int, exit_code: int | None, **_: object) -> None:
            if self._stopping:
                return
            if watcher.name == API_PROCESSES and not watcher.processes:
                stand_in.begin()
            logger.error(
                "a process of %s (%d) ended with status %s; %s",
                "the API"
                if watcher.name == API_PROCESSES
                else watcher.name.removeprefix("service_"),
                process_pid,
                exit_code,
                "another one is started" if watcher.respawn else "the server ends",
            )

        def started(future: Any) -> None:
            stand_in.open(self.sockets[LISTENING_SOCKET])
            for watcher in self.iter_watchers():
                watcher.hooks["after_reap"] = died
            with suppress(ValueError, RuntimeError):  # no signals in a thread: bentoml.serve(...)
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGCHLD, _replace_ended, self, loop)
            if cb is not None:
                cb(future)

        try:
            return start_all(self, started)
        except OSError as error:  # circus binds the sockets here
            if error.errno not in ADDRESS_ERRORS:
                raise
            listening = self.sockets[LISTENING_SOCKET]
            raise BentoMLException(
                f"{listening.host}:{listening.port}: {os.strerror(error.errno).lower()}; "
                "choose another address with --host and --port"
            ) from error

    @gen.coroutine  # what circus awaits
    def stop(self: Any) -> Any:
        if self._stopping:  # a second signal
            return
        self._stopping = True  # an API process that has ended is not started again
        stand_in.begin(until_the_end=True)
        for watcher in self.iter_watchers():
            if watcher.name == API_PROCESSES:
                yield watcher._stop(True)
        yield stop_all(self)

    supervisor.start, supervisor.stop = start, stop


def _replace_ended(supervisor: Any, loop: asyncio.AbstractEventLoop) -> None:
    from circus.exc import ConflictError

    try:
        supervisor.manage_watchers()
    except ConflictError:  # it is about to start or stop some
        loop.call_later(0.5, _replace_ended, supervisor, loop)


def _refusal() -> bytes:
    request_id = uuid.uuid4().hex
    message = "the service starts or stops; try again later"
    detail = ErrorDetail(code=NotReady.code, message=message, request_id=request_id)
    body = ErrorAnswer(error=detail).model_dump_json()
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Request-Id: {request_id}",
        f"Retry-After: {NotReady.retry_after_s}",
        "Connection: close",
    )
    return "\r\n".join([*head, "", body]).encode()


REFUSAL_TIMEOUT_S = 2


class StandIn:
    """Answers every connection with 503, in the supervisor, while no API process accepts any.

    Belongs to one event loop, that of `open`.
    """

    def __init__(self) -> None:
        self._listening: socket.socket | None = None
        self._needed = True
        self._until_the_end = False
        self._answers: set[asyncio.Task[None]] = set()

    def open(self, listening: socket.socket) -> None:
        """Take the socket that the API processes share, and begin unless one of them is ready."""
        listening.setblocking(False)
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        if self._needed:
            self.begin()

    def begin(self, *, until_the_end: bool = False) -> None:
        """Accept connections, until an API process is ready or for good."""
        self._until_the_end = until_the_end
        if self._listening is not None:
            self._loop.add_reader(self._listening.fileno(), self._accept, self._listening)

    def end_soon(self) -> None:
        """Leave connections to the API processes; called by a handler of signals."""
        self._needed = False
        if self._listening is not None and not self._until_the_end:
            self._loop.call_soon_threadsafe(self._loop.remove_reader, self._listening.fileno())

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):  # an API process was faster, or the client has left
            task = self._loop.create_task(self._refuse(listening.accept()[0]))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _refuse(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with connection, suppress(OSError, TimeoutError):
            async with asyncio.timeout(REFUSAL_TIMEOUT_S):
                await self._loop.sock_sendall(connection, _refusal())
                connection.shutdown(socket.SHUT_WR)
                # To close it with data unread would reset it, and the answer could be lost.
                while await self._loop.sock_recv(connection, 65_536):
                    pass


def worker_number() -> int:
    """Return the number of this process among the workers of its service, from 1."""
    from bentoml._internal.context import server_context

    return server_context.worker_index or 1


def address_of(service_name: str) -> str:
    """Return the address at which this server offers a service, "" where it has none."""
    addresses: dict[str, str] = BentoMLContainer.remote_runner_mapping.get()
    return addresses.get(service_name, "")


def tell_supervisor_ready() -> None:
    """Call in an API process that is about to accept requests: its supervisor need not."""
    if _has_supervisor():
        os.kill(os.getppid(), signal.SIGUSR2)
