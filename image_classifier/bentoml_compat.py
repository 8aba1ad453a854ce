"""All workarounds for BentoML 1.4.40 and the uvicorn it starts.

Each says what BentoML does, why that is a problem, and until when the workaround is needed.
tests/test_bentoml_compat.py fails when BentoML no longer needs one of them.
"""

import atexit
import ctypes
import errno
import json
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
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

from image_classifier.artifact.format import replacing
from image_classifier.artifact.store import ModelLock, read_lock
from image_classifier.http.stand_in import StandIn
from image_classifier.logs import logger
from preprocessing.errors import OperatorError

API_CONFIG: dict[str, Any] = {
    "traffic": {"timeout": 60},
    # Creates a series for each path that a client requests, and takes /metrics.
    # Until: series have a fixed set of labels.
    "metrics": {"enabled": False},
    # Probes of a dead runner hang for `traffic.timeout`, because `is_ready` does not catch its own
    # timeout (_bentoml_impl/client/proxy2.py). `__is_ready__` probes instead.
    # Until: `is_ready` catches TimeoutError.
    "runner_probe": {"enabled": False},
    "logging": {"access": {"enabled": False}},  # a line for every file of Swagger UI
}
"""Configuration of the service that answers HTTP."""
KEEP_CONNECTIONS = {"max_requests": 2**31 - 1, "max_age": 1e9}
"""`runner_connection` of a service that others call: never renew connections.

BentoML replaces its client to the runner every 100 requests and closes the old one, so that its
calls in flight fail: 1 to 20 % of the requests. Until: BentoML issue 5540 is fixed."""


def runner_exchange(proxy: Any, path: str) -> Callable[[bytes], Awaitable[bytes]]:
    """Return a function that posts bytes to a path of a runner and returns the bytes it answers.

    Uses BentoML's connection but none of its APIs. They cost 2.4 ms of the runner's processor time
    per call, run one batch at a time, and delay calls by the average wait of the last 50, which
    takes minutes to shrink after a peak.
    Until: a call of a BentoML API costs a tenth of that and is not delayed.
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
    """A `service_class` whose mounted application answers before BentoML's own routes.

    BentoML puts `@bentoml.api` routes first: POST /classify would go to its parser, which writes
    uploads to temporary files and fetches URLs sent instead of files, and its middlewares cost
    more than our whole request.
    The application, or a function that returns it (called in workers only), passes paths it does
    not have on to BentoML (/livez, /readyz, /schema.json, Swagger UI's files, further mounts);
    BentoML's errors get the application's shape. An application mounted at a path of its own
    answers that path only.
    Until: a mounted application can precede the routes of the APIs.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Return the ASGI application of a worker."""
        (app, *place), *others = self.mount_apps
        if place[0] != "/":
            return self._beside(app, place[0], super().to_asgi(is_main))
        if not isinstance(app, Starlette):
            app = app()
            self.mount_apps[:] = [(app, *place), *others]
        framework: Starlette = super().to_asgi(is_main)
        framework.exception_handlers.update(app.exception_handlers)

        async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
            if any(route.matches(scope)[0] is not Match.NONE for route in framework.routes):
                await framework(scope, receive, send)
            else:
                await app.router.not_found(scope, receive, send)

        app.router.default = pass_on
        outermost: ASGIApp = app
        if BentoMLContainer.http.cors.enabled.get():  # BentoML's setting, for our paths too
            options: dict[str, Any] = BentoMLContainer.access_control_options.get()
            outermost = CORSMiddleware(app, **options)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await (framework if scope["type"] == "lifespan" else outermost)(scope, receive, send)

        return serve

    def _beside(self, app: ASGIApp, path: str, framework: ASGIApp) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await (app if scope.get("path") == path else framework)(scope, receive, send)

        return serve


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an OperatorError into one line on stderr and exit status 1.

    In a worker, any error stops the server with one line. BentoML restarts a failing worker
    forever, with the port open. Until: BentoML stops a server whose workers cannot start.
    """
    try:
        yield
    # Models, engines and users' classes raise anything; all of it must stop the start.
    except Exception as error:
        if _has_supervisor():
            _stop_server(error)
        if isinstance(error, OperatorError):
            raise BentoMLException(str(error)) from error
        raise


SUPERVISOR = "IMAGE_CLASSIFIER_SUPERVISOR"
"""Environment variable with the supervisor's process id, set for its workers."""
LOCK = "IMAGE_CLASSIFIER_LOCK"
"""Environment variable with the lock that the supervisor read, as JSON, set for its workers: a
process that is replaced later must serve the same model as the others."""
METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the server's metrics directory, which BentoML sets for the workers."""
START_FAILURE = "start-failure"
"""File in that directory with the reason why a worker cannot start."""
START_STEP = "start-step"
"""File in that directory with the current step of a worker that is starting."""


def prepare_process(keep_alive_s: float) -> None:
    """Prepare a process; call this in each, when the service module is imported.

    Args:
        keep_alive_s: Seconds an idle connection stays open, unless set on the command line.
    """
    if SUPERVISOR in os.environ:
        _prepare_worker(int(os.environ[SUPERVISOR]), keep_alive_s)
        return
    # BentoML empties `BENTOML_HOME/prometheus_multiproc_dir` at each start, so a second server,
    # even one that fails to start, would delete the metrics of the first.
    # Until: BentoML has a directory per server.
    home = BentoMLContainer.bentoml_home.get()
    metrics = Path(home, "prometheus_multiproc_dir", str(os.getpid()))
    BentoMLContainer.prometheus_multiproc_dir.set(str(metrics))
    # BentoML reports usage by default; BENTOML_DO_NOT_TRACK=False allows it.
    # Until: BentoML asks first.
    if "BENTOML_DO_NOT_TRACK" not in os.environ:
        from bentoml._internal.utils.analytics import usage_stats

        os.environ["BENTOML_DO_NOT_TRACK"] = "True"
        usage_stats.do_not_track.cache_clear()
    # BentoML gives all workers of a service the same GPUs, by indices that match neither UUIDs nor
    # MIG slices; see `select_gpu`. Until: each worker gets a GPU of its own.
    os.environ.setdefault("BENTOML_DISABLE_GPU_ALLOCATION", "True")


def share_connections(processes: int) -> None:
    """Share connections evenly with the other API processes; call this before one is accepted."""
    folder = shared_folder()
    if folder is not None and processes > 1:
        from image_classifier.http.accepting import ConnectionCounts, spread_connections

        with suppress(OSError):  # a full disk
            spread_connections(ConnectionCounts(folder, processes))


def install_early_answers(app: Starlette, delay_s: float) -> None:
    """Let the HTTP protocol call `app.state.reject` and `app.state.refuse`.

    With CORS enabled, refusals need headers, which requests get in the application only.

    Args:
        delay_s: Seconds before a refusal is sent.
    """
    from image_classifier.http.protocol import ClassifierProtocol

    ClassifierProtocol.reject = app.state.reject
    if not BentoMLContainer.http.cors.enabled.get():
        ClassifierProtocol.refuse = app.state.refuse
        ClassifierProtocol.refusal_delay_s = delay_s


def _prepare_worker(supervisor: int, keep_alive_s: float) -> None:
    # The workers of a killed supervisor would keep the port.
    # Until: BentoML issue 4193 is fixed.
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != supervisor:  # killed before the call
        sys.exit("image_classifier: the supervisor has ended")
    from uvicorn.config import HTTP_PROTOCOLS, LOOP_FACTORIES

    from image_classifier.http.protocol import ClassifierProtocol

    # uvicorn uses uvloop where it is installed. With uvloop, BentoML fetches a URL that is sent
    # instead of a file, and `http/accepting.py` has no effect.
    # Until: BentoML has a setting for the event loop.
    LOOP_FACTORIES["auto"] = LOOP_FACTORIES["asyncio"]
    # BentoML has no setting for uvicorn's protocol and closes idle connections after 5 s. Load
    # balancers (60 s) and BentoML's client to the runner (15 s) keep them longer and would send
    # requests on connections that are being closed.
    # Until: uvicorn reads the body of a request with an unknown upgrade (uvicorn issue 2722), and
    # BentoML has a setting of the time for all its processes.
    HTTP_PROTOCOLS["auto"] = ClassifierProtocol  # type: ignore[assignment]  # or a class
    if "--timeout-keep-alive" not in sys.argv:  # an option of `bentoml serve`
        ClassifierProtocol.keep_alive_s = keep_alive_s


def prepare_supervisor(service: Service[Any], lock: ModelLock, *, with_runner: bool) -> None:
    """Prepare the supervisor, before workers start.

    Args:
        service: The service that answers HTTP.
        lock: The model that all workers serve.
        with_runner: Whether the runner has a process of its own. BentoML starts one for every
            dependency; without the dependency, the workers create the runner in place.
            Until: dependencies can be optional.
    """
    from bentoml._internal.utils.circus import Arbiter  # not needed in workers

    metrics = BentoMLContainer.prometheus_multiproc_dir.get()
    atexit.register(shutil.rmtree, metrics, ignore_errors=True)
    os.environ[SUPERVISOR] = str(os.getpid())
    os.environ[LOCK] = lock.model_dump_json()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # would end the supervisor without its workers
    supervise(Arbiter)
    if not with_runner:
        service.dependencies.pop("runner", None)


def locked_model(path: Path) -> ModelLock:
    """Return the lock at `path`; in a worker, as the supervisor read it.

    Raises:
        ArtifactError: The file is missing or is not a lock.
    """
    if _has_supervisor():
        return ModelLock.model_validate_json(os.environ[LOCK])
    return read_lock(path)


def _has_supervisor() -> bool:
    """Return whether this is a worker of `bentoml serve`, not an in-process use of a service."""
    return os.environ.get(SUPERVISOR) == str(os.getppid())


def _stop_server(error: Exception) -> NoReturn:
    """End this worker and leave the message for its supervisor, which then ends, too."""
    text = str(error)
    if not isinstance(error, OperatorError):
        text = f"the start failed: {type(error).__name__}: {' '.join(text.split())}"
    try:
        _write_for_supervisor(START_FAILURE, text)
    except OSError:  # a full disk
        logger.error("%s", text)
    os._exit(1)


def _write_for_supervisor(name: str, text: str) -> None:
    """Replace a file in the metrics directory atomically."""
    with replacing(Path(os.environ[METRICS], name)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def tell_supervisor_step(name: str) -> None:
    """Tell the supervisor which step of the start begins, for its 503 answers."""
    if _has_supervisor():
        with suppress(OSError):  # a full disk
            _write_for_supervisor(START_STEP, name)


def tell_supervisor_ready() -> None:
    """Tell the supervisor that this process accepts requests, so that it stops answering 503."""
    if _has_supervisor():
        with suppress(OSError):
            Path(os.environ[METRICS], START_STEP).unlink(missing_ok=True)
        os.kill(os.getppid(), signal.SIGUSR2)


def shared_folder() -> Path | None:
    """Return the directory that the workers of this server share; None without `bentoml serve`."""
    return Path(os.environ[METRICS]) if _has_supervisor() else None


def is_first_worker() -> bool:
    """Return whether this process is the first of its service."""
    return (server_context.worker_index or 1) == 1


def select_gpu(gpus: Sequence[str]) -> None:
    """Make one GPU, if any, visible to this worker; call it before torch is imported."""
    if gpus:
        number = (server_context.worker_index or 1) - 1
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


def service_address() -> str:
    """Return the address of this server."""
    return _bracketed(BentoMLContainer.remote_runner_mapping.get().get("ImageClassifier", ""))


def _bracketed(address: str) -> str:
    """Return an address with brackets around an IPv6 host.

    BentoML writes `http://::1:3000`. Until: it writes brackets.
    """
    return re.sub(r"(^|//)([^[/]*:[^/]*):", r"\1[\2]:", address)


ADDRESS_ERRORS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
API_PROCESSES = "service"
LISTENING_SOCKET = "_bento_api_server"
"""BentoML's names of the entry service's processes, a prefix of the names of all services'
processes, and of their socket (_bentoml_impl/server/serving.py)."""
CHECK_INTERVAL_MS = 1_000
"""How often the supervisor looks for dead processes."""
STOP_WITHIN_S = 120
"""Seconds after which processes that do not stop are killed: the longest body and answer take 60
and 55. BentoML waits for a day. Until: BentoML's limit is finite."""


def supervise(supervisor: type[Any]) -> None:
    """Patch BentoML's supervisor.

    - BentoML removes the directory of the runner's socket, then stops all processes at once
      (bentoml/_internal/utils/circus, `Arbiter.stop`). Requests that an API process had accepted
      but not yet sent to the runner were lost (tests/service/test_lives.py). Here the API
      processes end first. Until: BentoML stops processes in the order of their dependencies.
    - BentoML keeps the port open while no API process accepts: at the start, at the end, and while
      a dead process is replaced. Clients and probes then hang; here they are answered 503.
      Until: BentoML closes the port while no process answers.
    - BentoML ends with a traceback when the port is taken. Until: it prints one line.
    - BentoML does not log dead processes and looks for them every 10 s only.
      Until: BentoML logs and replaces them at once.
    - BentoML accepts commands, even to run programs, on two ports of the loopback address. Here it
      accepts none, unless `--reload` needs them. Until: BentoML opens no ports.

    Args:
        supervisor: The class of the supervisor, a circus arbiter.
    """
    from circus.exc import ConflictError  # not needed in workers
    from tornado import gen

    start_all, stop_all = supervisor.start, supervisor.stop
    stand_in = StandIn()
    signal.signal(signal.SIGUSR2, lambda *_: stand_in.stop())  # see `tell_supervisor_ready`
    # circus logs twice that a port is taken; `start` raises a better message.
    logging.getLogger("circus").addFilter(lambda record: "not bind" not in record.getMessage())

    def start(self: Any, cb: Callable[[Any], Any] | None = None) -> Any:
        # From the workers' environment: BentoML chooses another directory if ours cannot be made.
        failure = Path(self.watchers[0].env[METRICS], START_FAILURE)
        running: dict[int, tuple[Any, Any]] = {}  # at the last check: id → (watcher, process)

        def died(watcher: Any, process_pid: int, exit_code: int | None, **_: object) -> None:
            running.pop(process_pid, None)
            if failure.exists() or not watcher.respawn:
                watcher.numprocesses = 0  # a service without processes ends the server
            if not (failure.exists() or self._stopping):
                is_api = watcher.name == API_PROCESSES
                # A process started since the last check does not accept yet.
                accepting = running.keys() & watcher.processes.keys()
                if is_api and not accepting and not stand_in.stopped_lately:
                    stand_in.start()
                logger.error(
                    "a process of %s (%d) ended with status %s; %s",
                    "the API" if is_api else watcher.name.removeprefix("service_"),
                    process_pid,
                    exit_code,
                    "another one is started" if watcher.respawn else "the server ends",
                )

        def check() -> Any:
            # circus calls no hook for a process that dies during its own check, nor for one that
            # it told to end.
            for process_pid, (watcher, process) in tuple(running.items()):
                if process_pid not in watcher.processes:
                    exit_code = process.poll()
                    if exit_code not in (None, 0, -signal.SIGTERM):
                        died(watcher, process_pid, exit_code)
            running.clear()
            for watcher in self.iter_watchers():
                running.update({pid: (watcher, p) for pid, p in watcher.processes.items()})
            stand_in.stopped_lately = False
            with suppress(ConflictError):  # while it starts, stops or reloads processes
                return self.manage_watchers()

        def started(future: Any) -> None:
            stand_in.open(self.sockets[LISTENING_SOCKET], failure.with_name(START_STEP))
            checks = self.ctrl.caller
            checks.stop()
            checks.callback, checks.callback_time = check, CHECK_INTERVAL_MS
            checks.start()
            for watcher in self.iter_watchers():
                watcher.hooks["after_reap"] = died
            if cb is not None:
                cb(future)

        if all(watcher.name.startswith(API_PROCESSES) for watcher in self.watchers):
            self.ctrl.endpoint = f"inproc://control-{id(self)}"
            self.pubsub_endpoint = f"inproc://events-{id(self)}"
        # Of the socket, the system has dropped all but the lowest 16 bits.
        address = json.loads(self.watchers[0].env["BENTOML_RUNNER_MAP"])["ImageClassifier"]
        port = int(address.rpartition(":")[2])
        if not 0 < port < 1 << 16:
            raise BentoMLException(f"--port {port}: expected 1 to 65535")
        try:
            return start_all(self, started)
        except RuntimeError as error:
            if "No active process" not in str(error):  # circus ends: a service has no processes
                raise
            message = failure.read_text("utf-8") if failure.exists() else "a process has ended"
            raise BentoMLException(message) from error
        except OSError as error:
            if error.errno not in ADDRESS_ERRORS:
                raise
            listening = self.sockets[LISTENING_SOCKET]  # circus binds the sockets in `start`
            address = _bracketed(f"{listening.host}:{listening.port}")
            raise BentoMLException(
                f"{address}: {os.strerror(error.errno).lower()}; "
                "choose another address with --host and --port (of make: HOST= and PORT=)"
            ) from error

    @gen.coroutine  # as circus expects
    def stop(self: Any) -> Any:
        if self._stopping:  # a second signal
            return
        self._stopping = True  # ended API processes are not started again
        while self._exclusive_running_command is not None:  # circus refuses to stop meanwhile
            yield gen.sleep(0.1)
        stand_in.start(for_shutdown=True)
        for watcher in self.iter_watchers():
            watcher.graceful_timeout = STOP_WITHIN_S
            if watcher.name == API_PROCESSES:
                yield watcher._stop(True)
        yield stand_in.finish()
        yield stop_all(self)

    supervisor.start, supervisor.stop = start, stop
