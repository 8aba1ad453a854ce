"""Every workaround for BentoML 1.4.40 and the uvicorn it starts.

Each says what BentoML does, why that does not fit, and until when the workaround is needed.
tests/test_bentoml_compat.py has a test for each that fails once BentoML no longer does it.
"""

import atexit
import functools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

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
        ignore_upgrades()

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await (framework if scope["type"] == "lifespan" else answer)(scope, receive, send)

        return serve


def ignore_upgrades() -> None:
    """Have uvicorn, which BentoML starts without a choice of protocol, ignore `Upgrade`.

    Until: uvicorn reads the body of a request whose upgrade it does not know (uvicorn issue 2722).
    """
    from uvicorn.config import HTTP_PROTOCOLS

    HTTP_PROTOCOLS["auto"] = "image_classifier.http.protocol:UpgradeIgnoringProtocol"


def prepare_process() -> None:
    """Call at the import of the service module, in every process.

    - Metrics: BentoML empties `BENTOML_HOME/prometheus_multiproc_dir` at each start, so a second
      server, even one that fails to start, silences the first. The supervisor gets a folder of
      its own. Until: BentoML has one for each server.
    - Telemetry: BentoML reports its use unless told otherwise; say BENTOML_DO_NOT_TRACK=False to
      allow it. Until: BentoML asks.
    """
    from bentoml._internal.utils.analytics import usage_stats

    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        home = BentoMLContainer.bentoml_home.get()
        folder = Path(home, "prometheus_multiproc_dir", str(os.getpid()))
        BentoMLContainer.prometheus_multiproc_dir.set(str(folder))
    if "BENTOML_DO_NOT_TRACK" not in os.environ:
        os.environ["BENTOML_DO_NOT_TRACK"] = "True"
        usage_stats.do_not_track.cache_clear()


SUPERVISOR = "IMAGE_CLASSIFIER_SUPERVISOR"
"""Environment variable, inherited by the workers: the supervisor's process id, a colon, and the
folder in which a worker that fails leaves its message."""
MESSAGE = "message"


def prepare_supervisor(service: Service[Any], *, with_runner: bool) -> None:
    """Call in the supervisor, before workers start.

    Args:
        service: The service that answers HTTP.
        with_runner: The runner has a process of its own. BentoML starts one for every dependency
            it finds here; without this one, the workers make the runner in place.
            Until: dependencies can be optional.
    """
    folder = tempfile.mkdtemp(prefix="image-classifier-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    metrics = BentoMLContainer.prometheus_multiproc_dir.get()
    atexit.register(shutil.rmtree, metrics, ignore_errors=True)
    os.environ[SUPERVISOR] = f"{os.getpid()}:{folder}"
    signal.signal(signal.SIGUSR1, _stop)
    if with_runner:
        from bentoml._internal.utils.circus import Arbiter  # of no use in a worker

        stop_api_processes_first(Arbiter)
    else:
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
            supervisor, _, folder = os.environ.get(SUPERVISOR, "").partition(":")
            if supervisor != str(os.getppid()):  # no server of ours: tests, in-process use
                raise
            _leave_message(error, Path(folder))
            os.kill(os.getppid(), signal.SIGUSR1)
            os._exit(1)

    return guarded


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


API_PROCESSES = "service"
"""BentoML's name for the processes of the entry service (_bentoml_impl/server/serving.py)."""


def stop_api_processes_first(supervisor: type[Any]) -> None:
    """Have a server stop its API processes before the runner.

    BentoML removes the directory of the runner's socket and then stops all processes at once
    (bentoml/_internal/utils/circus, `Arbiter.stop`): what an API process had accepted and not yet
    sent to the runner was lost (tests/service/test_stopping.py).
    Until: BentoML stops processes in the order of their dependencies.

    Args:
        supervisor: The class whose `stop` ends the server; a circus arbiter.
    """
    from tornado import gen  # of no use in a worker

    stop_all = supervisor.stop

    @gen.coroutine  # what circus awaits
    def stop(self: Any) -> Any:
        if self._stopping:  # a second signal
            return
        self._stopping = True  # an API process that has ended is not started again
        for watcher in self.iter_watchers():
            if watcher.name == API_PROCESSES:
                yield watcher._stop(True)
        yield stop_all(self)

    supervisor.stop = stop
