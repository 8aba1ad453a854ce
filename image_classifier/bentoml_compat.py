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
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.context import server_context
from bentoml.exceptions import BentoMLException, ServiceUnavailable
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from image_classifier.errors import NotReady
from image_classifier.http.schemas import ErrorAnswer, ErrorDetail
from image_classifier.logs import logger
from preprocessing.errors import OperatorError

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


def runner_exchange(proxy: Any, path: str) -> Callable[[bytes], Awaitable[bytes]]:
    """Return what sends bytes to a path of a runner and returns those that it answers.

    Over BentoML's own connection, without its APIs: they cost 2.4 ms of the runner's processor a
    call, run one batch at a time, and hold a call back for as long as the last 50 waited on
    average, which takes minutes to shrink after a busy moment.
    Until: a call of BentoML's APIs costs a tenth of that and waits for nothing.
    """

    async def exchange(body: bytes) -> bytes:
        session = await proxy.to_async._session_manager.get_session()
        async with session.post(path, data=body) as response:
            if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
                raise ServiceUnavailable("the runner is not ready")
            if response.status != HTTPStatus.OK:
                raise BentoMLException(f"the runner answers {response.status}")
            answer: bytes = await response.read()
            return answer

    return exchange


class MountedAppFirst(Service[Any]):  # type: ignore[misc]  # BentoML's is untyped
    """A service whose mounted application answers before BentoML's own routes.

    `service_class` of `bentoml.service` takes it. BentoML puts `@bentoml.api` routes first, so
    that POST /classify would go to its parser, which writes uploads to temporary files and
    fetches URLs given in place of files; and its middlewares cost more than our whole request.
    The application may be given as a function that makes it, which is called in the workers alone.
    One with a path of its own is taken for that alone.
    Paths that the application does not have are handed on to BentoML (/livez, /readyz,
    /schema.json, Swagger UI's files, further mounts); its errors get the application's shape.
    Until: a mounted application can be put before the routes of the APIs.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Return the application that a worker serves."""
        (app, *place), *others = self.mount_apps
        if place[0] != "/":
            return self._beside(app, place[0], super().to_asgi(is_main))
        if not isinstance(app, Starlette):
            app = app()
            self.mount_apps[:] = [(app, *place), *others]
        framework: Starlette = super().to_asgi(is_main)
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

    def _beside(self, app: ASGIApp, path: str, framework: ASGIApp) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await (app if scope.get("path") == path else framework)(scope, receive, send)

        return serve


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise what BentoML prints in one line, with exit status 1, for an OperatorError.

    In a worker, which is started anew for ever, it stops the server: `stop_server_on_failure`.
    """
    try:
        yield
    except OperatorError as error:
        if _has_supervisor():
            _stop_server(error)
        raise BentoMLException(str(error)) from error


SUPERVISOR = "IMAGE_CLASSIFIER_SUPERVISOR"
"""Environment variable that the supervisor sets for its workers: its process id."""
METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that BentoML sets for the workers: the folder of the server's metrics."""
START_FAILURE = "start-failure"
"""File in that folder in which a worker says why it cannot start."""
START_STEP = "start-step"
"""File in that folder that holds the step at which a worker that starts is."""


def prepare_process(keep_alive_s: float, *, share_connections: bool = False) -> None:
    """Call at the import of the service module, in every process.

    Args:
        keep_alive_s: Seconds an idle connection stays open, unless the command line says it.
        share_connections: Several processes answer requests.
    """
    if SUPERVISOR in os.environ:
        _prepare_worker(int(os.environ[SUPERVISOR]), keep_alive_s)
        if share_connections:
            from image_classifier.http.accepting import spread_connections

            spread_connections()
        return
    # BentoML empties `BENTOML_HOME/prometheus_multiproc_dir` at each start, so a second server,
    # even one that fails to start, would silence the first. Each gets a folder of its own.
    # Until: BentoML has one for each server.
    home = BentoMLContainer.bentoml_home.get()
    metrics = Path(home, "prometheus_multiproc_dir", str(os.getpid()))
    BentoMLContainer.prometheus_multiproc_dir.set(str(metrics))
    # BentoML reports its use unless told otherwise; BENTOML_DO_NOT_TRACK=False allows it.
    # Until: BentoML asks.
    if "BENTOML_DO_NOT_TRACK" not in os.environ:
        from bentoml._internal.utils.analytics import usage_stats

        os.environ["BENTOML_DO_NOT_TRACK"] = "True"
        usage_stats.do_not_track.cache_clear()
    # BentoML gives all workers of a service the same GPUs, by indices that fit neither UUIDs nor
    # slices (MIG); `service.py` chooses. Until: each worker gets a GPU of its own.
    os.environ.setdefault("BENTOML_DISABLE_GPU_ALLOCATION", "True")


def refuse_early(app: Starlette, delay_s: float) -> None:
    """Have requests that `app.state.refuse` answers refused before the application is called.

    The answer is sent after `delay_s` seconds.

    Where BentoML adds headers for CORS to each answer, the application refuses by itself.
    """
    if not BentoMLContainer.http.cors.enabled.get():
        from image_classifier.http.protocol import ClassifierProtocol

        ClassifierProtocol.refuse = app.state.refuse
        ClassifierProtocol.refusal_delay_s = delay_s


def _prepare_worker(supervisor: int, keep_alive_s: float) -> None:
    # The workers of a supervisor that is killed would go on to hold the port.
    # Until: BentoML issue 4193.
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != supervisor:  # it had ended before
        sys.exit("image_classifier: the supervisor has ended")
    # BentoML starts uvicorn without a choice of protocol and has it close idle connections after
    # 5 s. Load balancers and BentoML's own client to the runner keep them longer (60 s, 15 s) and
    # would send a request on a connection that is being closed.
    # Until: uvicorn reads the body of a request whose upgrade it does not know (uvicorn issue
    # 2722), and BentoML has a setting of the time for all its processes.
    from uvicorn.config import HTTP_PROTOCOLS, LOOP_FACTORIES

    from image_classifier.http.protocol import ClassifierProtocol

    # uvicorn takes uvloop where it is installed. With it BentoML fetches a URL that is sent in
    # place of a file, and `http/accepting.py` cannot take the listening socket.
    # Until: BentoML has a setting of the event loop.
    LOOP_FACTORIES["auto"] = LOOP_FACTORIES["asyncio"]
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

    metrics = BentoMLContainer.prometheus_multiproc_dir.get()
    atexit.register(shutil.rmtree, metrics, ignore_errors=True)
    os.environ[SUPERVISOR] = str(os.getpid())
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # would end the supervisor, not its workers
    supervise(Arbiter)
    if not with_runner:
        service.dependencies.pop("runner", None)


def _has_supervisor() -> bool:
    """Return False in tests and other in-process use of the services."""
    return os.environ.get(SUPERVISOR) == str(os.getppid())


def stop_server_on_failure(start: Callable[[Any], None]) -> Callable[[Any], None]:
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
            _stop_server(error)

    return guarded


def _stop_server(error: Exception) -> NoReturn:
    """End this worker and leave the message to its supervisor, which then ends, see `supervise`."""
    text = str(error)
    if not isinstance(error, OperatorError):
        text = f"the start failed: {type(error).__name__}: {' '.join(text.split())}"
    _leave_for_supervisor(START_FAILURE, text)
    os._exit(1)


def _leave_for_supervisor(name: str, text: str) -> None:
    """Replace a file of the folder of metrics in one step: the supervisor reads it whole."""
    draft = Path(os.environ[METRICS], f"{name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(draft.with_suffix(""))


def tell_supervisor_step(name: str) -> None:
    """Name the step of the start that begins, for the 503 that requests get meanwhile."""
    if _has_supervisor():
        with suppress(OSError):  # a full disk
            _leave_for_supervisor(START_STEP, name)


def tell_supervisor_ready() -> None:
    """Tell the supervisor that this process accepts requests, so that it stops answering 503."""
    if _has_supervisor():
        with suppress(OSError):
            Path(os.environ[METRICS], START_STEP).unlink(missing_ok=True)
        os.kill(os.getppid(), signal.SIGUSR2)


def shared_folder() -> Path | None:
    """Return the folder that the workers of this server share; None without `bentoml serve`."""
    return Path(os.environ[METRICS]) if _has_supervisor() else None


def worker_number() -> int:
    """Return the number of this process among the workers of its service, from 1."""
    return server_context.worker_index or 1


def service_address() -> str:
    """Return the address at which BentoML started this server."""
    return str(BentoMLContainer.remote_runner_mapping.get().get("ImageClassifier", ""))


ADDRESS_ERRORS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
API_PROCESSES = "service"
LISTENING_SOCKET = "_bento_api_server"
"""BentoML's names for the processes of the entry service, with which the names of all processes of
services begin, and for their socket (_bentoml_impl/server/serving.py)."""
CHECK_EVERY_MS = 1_000
"""How often the supervisor looks for processes that died."""


def supervise(supervisor: type[Any]) -> None:
    """Amend what BentoML's supervisor does.

    - It removes the directory of the runner's socket and then stops all processes at once
      (bentoml/_internal/utils/circus, `Arbiter.stop`): what an API process had accepted and not
      yet sent to the runner was lost (tests/service/test_lives.py). Here the API processes end
      first. Until: BentoML stops processes in the order of their dependencies.
    - It holds the port open while no API process accepts: at the start, at the end, and while a
      new one replaces one that died. Clients and probes then hang. Here they are answered 503.
      Until: BentoML closes the port while nobody answers.
    - It ends with a traceback where the port is taken. Until: it says so in one line.
    - It says nothing of a process that died, and looks for one every 10 s only.
      Until: BentoML logs and replaces it at once.
    - It takes commands, also to run programs, from whoever reaches two ports of the loopback
      address. Here it takes none, unless `--reload` needs them. Until: BentoML opens no ports.

    Args:
        supervisor: The class whose `start` and `stop` run the server; a circus arbiter.
    """
    from circus.exc import ConflictError  # of no use in a worker
    from tornado import gen

    start_all, stop_all = supervisor.start, supervisor.stop
    stand_in = StandIn()
    signal.signal(signal.SIGUSR2, lambda *_: stand_in.end_soon())  # see `tell_supervisor_ready`
    # circus' own line, written twice, about a port that is taken; `start` says it better
    logging.getLogger("circus").addFilter(lambda record: "not bind" not in record.getMessage())

    def start(self: Any, cb: Callable[[Any], Any] | None = None) -> Any:
        # Of the workers' environment: BentoML chose another folder if ours cannot be made.
        failure = Path(self.watchers[0].env[METRICS], START_FAILURE)
        running: dict[int, tuple[Any, Any]] = {}  # at the last check: id → watcher and process

        def died(watcher: Any, process_pid: int, exit_code: int | None, **_: object) -> None:
            running.pop(process_pid, None)
            if failure.exists():
                watcher.numprocesses = 0  # a service without processes ends the server
            elif not self._stopping:
                is_api = watcher.name == API_PROCESSES
                # One that was started since the last check does not accept yet.
                others = running.keys() & watcher.processes.keys()
                if is_api and not others and not stand_in.ended_lately:
                    stand_in.begin()
                logger.error(
                    "a process of %s (%d) ended with status %s; %s",
                    "the API" if is_api else watcher.name.removeprefix("service_"),
                    process_pid,
                    exit_code,
                    "another one is started" if watcher.respawn else "the server ends",
                )

        def check() -> Any:
            # circus calls no hook for a process that dies between its two looks at one check, nor
            # for one that it told to end.
            for process_pid, (watcher, process) in tuple(running.items()):
                if process_pid not in watcher.processes:
                    exit_code = process.poll()
                    if exit_code not in (None, 0, -signal.SIGTERM):
                        died(watcher, process_pid, exit_code)
            running.clear()
            for watcher in self.iter_watchers():
                running.update({it: (watcher, watcher.processes[it]) for it in watcher.processes})
            stand_in.ended_lately = False
            with suppress(ConflictError):  # it starts, stops or reloads processes
                return self.manage_watchers()

        def started(future: Any) -> None:
            stand_in.open(self.sockets[LISTENING_SOCKET], failure.with_name(START_STEP))
            checks = self.ctrl.caller
            checks.stop()
            checks.callback, checks.callback_time = check, CHECK_EVERY_MS
            checks.start()
            for watcher in self.iter_watchers():
                watcher.hooks["after_reap"] = died
            if cb is not None:
                cb(future)

        if all(watcher.name.startswith(API_PROCESSES) for watcher in self.watchers):
            self.ctrl.endpoint = f"inproc://control-{id(self)}"
            self.pubsub_endpoint = f"inproc://events-{id(self)}"
        port = self.sockets[LISTENING_SOCKET].port
        if not 0 < port < 1 << 16:  # the system takes 16 bits of it
            raise BentoMLException(f"--port {port}: expected 1 to 65535")
        try:
            return start_all(self, started)
        except RuntimeError as error:
            if "No active process" not in str(error):  # circus' end, a service has no process left
                raise
            message = failure.read_text("utf-8") if failure.exists() else "a process has ended"
            raise BentoMLException(message) from error
        except OSError as error:
            if error.errno not in ADDRESS_ERRORS:
                raise
            listening = self.sockets[LISTENING_SOCKET]  # circus binds the sockets in `start`
            raise BentoMLException(
                f"{listening.host}:{listening.port}: {os.strerror(error.errno).lower()}; "
                "choose another address with --host and --port (of make: HOST= and PORT=)"
            ) from error

    @gen.coroutine  # what circus awaits
    def stop(self: Any) -> Any:
        if self._stopping:  # a second signal
            return
        self._stopping = True  # an API process that has ended is not started again
        while self._exclusive_running_command is not None:  # a start or a reload, or circus refuses
            yield gen.sleep(0.1)
        stand_in.begin(until_the_end=True)
        for watcher in self.iter_watchers():
            if watcher.name == API_PROCESSES:
                yield watcher._stop(True)
        yield stop_all(self)

    supervisor.start, supervisor.stop = start, stop


def _refusal(state: str) -> bytes:
    request_id = uuid.uuid4().hex
    message = f"the service {state}; try again later"
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

    Attributes:
        ended_lately: An API process became ready since this was set to False.
    """

    def __init__(self) -> None:
        self.ended_lately = False
        self._listening: socket.socket | None = None
        self._needed = True
        self._until_the_end = False
        self._answers: set[asyncio.Task[None]] = set()

    def open(self, listening: socket.socket, step: Path) -> None:
        """Begin, unless an API process is ready.

        Args:
            listening: The socket that the API processes share.
            step: File with the name of the step at which the start is, where it is known.
        """
        listening.setblocking(False)
        self._step = step
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
        self.ended_lately = True
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
                await self._loop.sock_sendall(connection, _refusal(self._state()))
                connection.shutdown(socket.SHUT_WR)
                # To close it with data unread would reset it, and the answer could be lost.
                while await self._loop.sock_recv(connection, 65_536):
                    pass

    def _state(self) -> str:
        if self._until_the_end:
            return "stops"
        try:
            return f"starts ({self._step.read_text('utf-8')})"
        except FileNotFoundError:
            return "starts"
