"""The workarounds for BentoML work, and BentoML still needs them.

When a test named `…bentoml…` or `…uvicorn…` fails, its workaround can go.
"""

import asyncio
import inspect
import json
import os
import signal
import socket
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.config import HTTP_PROTOCOLS, LOOP_FACTORIES
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from image_classifier.http.protocol import ClassifierProtocol
from tests.http.echo_server import SMUGGLED, echo, exchange, upgrade
from tests.http.fakes import StubClassifier, app_of, send
from tests.imports import ROOT
from tests.programs import run_python
from tests.service.answers import checked_error

with warnings.catch_warnings():
    # BentoML uses a deprecated name of pathspec 1 while it is imported.
    warnings.simplefilter("ignore")
    import bentoml
    from _bentoml_impl.client import proxy2
    from _bentoml_impl.server import app as bentoml_app
    from _bentoml_impl.server import serving
    from _bentoml_impl.server.allocator import ResourceAllocator
    from _bentoml_impl.worker import service as worker
    from _bentoml_sdk import Service
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.marshal import dispatcher
    from bentoml._internal.server.http import instruments
    from bentoml._internal.utils import circus
    from bentoml._internal.utils.analytics import usage_stats
    from bentoml.exceptions import BentoMLException, ServiceUnavailable
    from bentoml.serving import create_watcher, ensure_prometheus_dir

    from image_classifier.bentoml_compat import (
        API_CONFIG,
        KEEP_CONNECTIONS,
        SUPERVISOR,
        MountedAppFirst,
        prepare_process,
        runner_exchange,
        service_address,
        supervise,
    )

# BentoML's models override what pydantic 2.11 deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"
)


def test_api_processes_end_before_the_runner_even_if_stopped_early_and_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []

    class Watcher:
        """The processes of one service, which take a moment to end."""

        graceful_timeout = 86_400

        def __init__(self, name: str) -> None:
            self.name = name

        async def _stop(self, close_output_streams: bool) -> None:
            events.append(f"{self.name} stops within {self.graceful_timeout} s")
            await asyncio.sleep(0)
            events.append(f"{self.name} ended")

    class Supervisor:
        _stopping = False
        # circus refuses a second command, such as a stop during the start.
        _exclusive_running_command: str | None = "arbiter_start_watchers"

        def start(self, cb: object = None) -> None: ...

        watchers = tuple(map(Watcher, ("service_ModelRunner", "service")))

        def iter_watchers(self) -> tuple[Watcher, ...]:
            return self.watchers

        async def stop(self) -> None:
            events.append("all stop")

    async def stop_twice() -> None:
        supervisor = Supervisor()
        stops = asyncio.gather(supervisor.stop(), supervisor.stop())
        await asyncio.sleep(0.05)
        events.append("started")
        supervisor._exclusive_running_command = None
        await stops

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    supervise(Supervisor)

    asyncio.run(stop_twice())

    assert events == ["started", "service stops within 120 s", "service ended", "all stop"]


def runner_map(port: int) -> str:
    return json.dumps({"ImageClassifier": f"http://127.0.0.1:{port}"})


@pytest.mark.parametrize("name", ["service_ModelRunner", "service"])
def test_a_dead_process_that_circus_misses_is_logged_and_connections_are_answered_503(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A check of circus looks for ended processes, then replaces those that are missing."""
    processes = {7: SimpleNamespace(poll=lambda: -9)}
    watcher = SimpleNamespace(
        name=name,
        processes=processes,
        respawn=True,
        hooks={},
        env={"PROMETHEUS_MULTIPROC_DIR": "/nowhere", "BENTOML_RUNNER_MAP": runner_map(99_999)},
    )

    class Supervisor:
        watchers = (watcher,)
        ctrl = SimpleNamespace(caller=SimpleNamespace(stop=lambda: None, start=lambda: None))
        _stopping = False

        def start(self, cb: Any = None) -> None:
            cb(None)

        def stop(self) -> None: ...

        def iter_watchers(self) -> Any:
            return self.watchers

        def manage_watchers(self) -> None:
            # The process dies in between and is replaced at once, without a hook.
            processes.pop(7, None)
            processes[8] = SimpleNamespace(poll=lambda: None)

    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    supervise(Supervisor)

    async def answered(port: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(0.5):
                return (await reader.read()).startswith(b"HTTP/1.1 503")
        except TimeoutError:
            return False
        finally:
            writer.close()

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            supervisor: Any = Supervisor()
            circus_socket: Any = SimpleNamespace(
                fileno=listening.fileno,
                accept=listening.accept,
                setblocking=listening.setblocking,
            )
            supervisor.sockets = {"_bento_api_server": circus_socket}
            with pytest.raises(BentoMLException, match="--port 99999: expected 1 to 65535"):
                supervisor.start()  # the system would take 34463
            watcher.env["BENTOML_RUNNER_MAP"] = runner_map(80)
            supervisor.start()
            handlers[signal.SIGUSR2]()  # process 7 is ready
            await asyncio.sleep(0)
            for _ in range(3):
                supervisor.ctrl.caller.callback()
            assert await answered(listening.getsockname()[1]) == (name == "service")

    asyncio.run(run())

    service = "the API" if name == "service" else "ModelRunner"
    assert caplog.messages == [
        f"a process of {service} (7) ended with status -9; another one is started"
    ]


def asgi_of(service_class: type[Any]) -> Any:
    """Return a service with an API at the same path as a route of its mounted application."""
    mounted = app_of(StubClassifier())

    @bentoml.service(name="Mounting", service_class=service_class, **API_CONFIG)
    @bentoml.asgi_app(mounted if service_class is Service else lambda: mounted)
    class Mounting:
        @bentoml.api
        async def classify(self, text: str) -> str:
            return "from BentoML"

        async def __is_ready__(self) -> bool:
            return False

    return Mounting.to_asgi()  # type: ignore[attr-defined]


def test_the_mounted_application_answers_first_and_passes_other_paths_on() -> None:
    app = asgi_of(MountedAppFirst)

    classified = send(app, "POST", "/classify", content=b"image").json()
    assert classified["predictions"][0]["label"] == "seven"
    assert send(app, "GET", "/livez").text == "\n"
    assert send(app, "GET", "/schema.json").json()["name"] == "Mounting"
    assert send(app, "GET", "/static_content/swagger-ui.css").status_code == 200
    missing = ("/nope", "/classify/", "/infer", "/static_content/nope", "/static_content/")
    for status, code, method, paths in [
        (404, "not_found", "GET", (*missing, "/static_content/../bentoml.py")),
        (405, "method_not_allowed", "POST", ("/readyz", "/static_content/swagger-ui.css")),
        (405, "method_not_allowed", "OPTIONS", ("/classify", "/livez", "/metrics", "/")),
    ]:
        for path in paths:
            checked_error(send(app, method, path), status, code)
    assert send(app, "GET", "/classify").headers["allow"] == "POST, PUT"
    # The message, which is logged, does not repeat the client's path.
    assert "forged" not in send(app, "POST", "/static_content/%0D forged").text
    for path, status in {"/": 200, "/livez": 200, "/classify": 405}.items():
        response = send(app, "HEAD", path)
        assert (response.status_code, response.content) == (status, b""), path


ASK_FROM_TWO_ORIGINS = """
import warnings
warnings.simplefilter("ignore")
from tests.test_bentoml_compat import MountedAppFirst, StubClassifier, app_of, asgi_of, send

app = asgi_of(MountedAppFirst)
for origin in ("https://example.org", "https://other.org"):
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type, x-request-id",
    }
    for answer in (
        send(app, "POST", "/classify", content=b"image", headers={"Origin": origin}),
        send(app, "OPTIONS", "/classify", headers=preflight),
    ):
        print(answer.status_code, answer.headers.get("access-control-allow-origin"))

# Early refusals would lack the headers.
from image_classifier.bentoml_compat import install_early_answers
from image_classifier.http.protocol import ClassifierProtocol

install_early_answers(app_of(StubClassifier()), 0.05)
print(ClassifierProtocol.refuse)
"""


def test_the_documented_cors_setting_applies_to_our_paths() -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    name, _, value = text.partition("`BENTOML_CONFIG_OVERRIDES")[2].partition("`")[0].partition("=")
    environment = {**os.environ, f"BENTOML_CONFIG_OVERRIDES{name}": value.strip("'")}

    # BentoML reads the variable once per process.
    done = run_python(ASK_FROM_TWO_ORIGINS, env=environment)

    own = "https://example.org"
    assert done.stdout.splitlines() == [
        *(f"200 {own}", f"200 {own}", "200 None", "400 None"),
        "None",
    ], done.stderr


@pytest.fixture
def worker_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `prepare_process` treat this process as a worker, and undo its changes."""
    no_prctl = SimpleNamespace(CDLL=lambda _: SimpleNamespace(prctl=lambda *_: 0))
    monkeypatch.setattr("image_classifier.bentoml_compat.ctypes", no_prctl)
    monkeypatch.setenv(SUPERVISOR, str(os.getppid()))
    monkeypatch.setattr(ClassifierProtocol, "keep_alive_s", None)
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", "")
    monkeypatch.setitem(LOOP_FACTORIES, "auto", LOOP_FACTORIES["auto"])


@pytest.mark.usefixtures("worker_process")
@pytest.mark.parametrize(("options", "expected_s"), [([], 75), (["--timeout-keep-alive", "9"], 9)])
def test_idle_connections_are_kept_for_the_setting_or_the_command_line_option(
    options: list[str], expected_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["worker", *options])

    seconds = int(options[1]) if options else 5

    async def protocol() -> Any:
        config = uvicorn.Config(echo, log_config=None, timeout_keep_alive=seconds)
        config.load()
        return config.http_protocol_class(config, ServerState(), {})  # type: ignore[call-arg]

    prepare_process(75)

    assert asyncio.run(protocol()).timeout_keep_alive == expected_s


@pytest.mark.usefixtures("worker_process")
def test_uvloop_is_not_used_even_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", SimpleNamespace(new_event_loop=None))
    before = uvicorn.Config(echo, log_config=None).get_loop_factory()

    prepare_process(75)

    assert before is None
    assert uvicorn.Config(echo, log_config=None).get_loop_factory() is asyncio.SelectorEventLoop


@pytest.mark.parametrize(
    ("by_bentoml", "expected"),
    [
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://::1:3000", "http://[::1]:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_an_ipv6_address_has_brackets(by_bentoml: str, expected: str) -> None:
    BentoMLContainer.remote_runner_mapping.set({"ImageClassifier": by_bentoml})
    try:
        assert service_address() == expected
    finally:
        BentoMLContainer.remote_runner_mapping.reset()


def test_bentoml_gives_all_workers_one_gpu_unless_disabled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @bentoml.service(name="OnTwoGpus")
    class OnTwoGpus: ...

    def worker_environment() -> dict[str, str]:
        allocator = ResourceAllocator()
        allocator.remaining_gpus, allocator._available_gpus = 2, [(1.0, 1.0)] * 2
        services = {"OnTwoGpus": {"workers": 2, "resources": {"gpu": 1}}}
        environment: dict[str, str] = allocator.get_worker_env(OnTwoGpus, services)[1]
        return environment

    ours = (SUPERVISOR, "BENTOML_DISABLE_GPU_ALLOCATION", "CUDA_VISIBLE_DEVICES")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    monkeypatch.setattr(os, "environ", kept)
    by_bentoml = worker_environment()
    try:
        prepare_process(75)
    finally:
        BentoMLContainer.prometheus_multiproc_dir.reset()

    assert by_bentoml == {"CUDA_VISIBLE_DEVICES": "0"}
    assert worker_environment() == {}


def test_bentoml_aborts_calls_in_flight_when_it_renews_a_connection() -> None:
    async def first_session_after(requests: int, **limits: Any) -> bool:
        manager = proxy2.SessionManager("http://127.0.0.1:1", 1.0, {}, **limits)
        first = await manager.get_session()
        for _ in range(requests):
            await manager.get_session()
        closed: bool = first.closed
        await manager.close()
        return closed

    assert asyncio.run(first_session_after(102, max_requests=100, max_age=300.0))
    assert not asyncio.run(first_session_after(102, **KEEP_CONNECTIONS))


def test_the_runners_own_path_is_called_without_bentomls_apis() -> None:
    async def twice(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        status = {b"early": 503, b"broken": 500}.get(body, 200)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body * 2})

    @bentoml.service(service_class=MountedAppFirst)
    @bentoml.asgi_app(twice, path="/logits")
    class Runner:
        @bentoml.api
        def infer(self, number: int) -> int:
            return number

    async def answers() -> list[bytes]:
        app = Runner.to_asgi(is_main=False)  # type: ignore[attr-defined]
        proxy = proxy2.RemoteProxy("http://runner", app=app)
        exchange_with = runner_exchange(proxy, "/logits")
        try:
            with pytest.raises(ServiceUnavailable):
                await exchange_with(b"early")
            with pytest.raises(BentoMLException, match="the runner answers 500"):
                await exchange_with(b"broken")
            return await asyncio.gather(*map(exchange_with, (b"a", b"b" * 9_000)))
        finally:
            await proxy.to_async.close()

    assert asyncio.run(answers()) == [b"aa", b"b" * 18_000]


def test_uvicorn_parses_the_body_of_a_request_with_an_upgrade_as_the_next_request() -> None:
    body = SMUGGLED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    head = upgrade(b"h2c", body).removesuffix(body)

    # With `ClassifierProtocol` it is the body of /first.
    assert b"[GET /smuggled]" in exchange(head, body, protocol=HttpToolsProtocol)


def test_bentoml_still_needs_the_other_workarounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MountedAppFirst
    routes = [
        route
        for route in asgi_of(Service).routes
        if getattr(route, "path", "") in ("/classify", "")
    ]
    assert routes[0].path == "/classify"
    assert isinstance(routes[-1], bentoml_app.PassiveMount)
    # API_CONFIG, runner_exchange, and our own Swagger UI page
    assert "except aiohttp.ServerTimeoutError:" in inspect.getsource(proxy2.AsyncClient.is_ready)
    source = inspect.getsource(dispatcher.CorkDispatcher)
    assert "NonBlockSema(1)" in source
    assert "<= self.optimizer.wait * decay" in source
    metrics = inspect.getsource(instruments.RunnerTrafficMetricsMiddleware)
    assert 'endpoint = scope["path"]' in metrics
    page = Path(bentoml_app.__file__).parent / "main-openapi.html"
    assert "googletagmanager" in page.read_text()
    # prepare_process
    (tmp_path / "counter_1.db").write_bytes(b"x")
    ensure_prometheus_dir(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("BENTOML_DO_NOT_TRACK")
    assert not usage_stats.do_not_track.__wrapped__()
    assert "prctl" not in inspect.getsource(worker)
    options = {option.name: option.default for option in worker.main.params}
    assert options["timeout_keep_alive"] == 5
    # one_line_errors, prepare_supervisor, supervise
    assert "assert len(socket_path) < MAX_AF_UNIX_PATH_LENGTH" in inspect.getsource(serving)
    assert serving.MAX_AF_UNIX_PATH_LENGTH == 103
    assert "optional" not in inspect.signature(bentoml.depends).parameters
    assert create_watcher("service", []).respawn
    assert "graceful_timeout=86400" in inspect.getsource(bentoml.serving)
    stop = inspect.getsource(circus.Arbiter.stop)
    assert stop.index("exit_stack") < stop.index("super().stop")
    create = inspect.getsource(circus.create_standalone_arbiter)
    assert 'pop("check_delay", 10)' in create
    assert 'endpoint=f"tcp://127.0.0.1' in create
