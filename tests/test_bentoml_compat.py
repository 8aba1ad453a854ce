"""The workarounds for BentoML: each does its work, and BentoML still needs it.

A test called `bentoml_…` or `uvicorn_…` that fails says that its workaround can go.
"""

import asyncio
import inspect
import os
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.http.fakes import Answering, app_of
from tests.http.test_protocol import SMUGGLED, exchange, upgrade

with warnings.catch_warnings():
    # BentoML uses a deprecated name of pathspec 1 while it is imported.
    warnings.simplefilter("ignore")
    import bentoml
    from _bentoml_impl.client import proxy2
    from _bentoml_impl.server import app as bentoml_app
    from _bentoml_sdk import Service
    from bentoml._internal.server.http import instruments
    from bentoml._internal.utils.analytics import usage_stats
    from bentoml._internal.utils.circus import Arbiter
    from bentoml.serving import create_watcher, ensure_prometheus_dir

    from image_classifier import bentoml_compat
    from image_classifier.bentoml_compat import (
        API_CONFIG,
        KEEP_CONNECTIONS,
        MountedAppFirst,
        stop_api_processes_first,
    )

# BentoML's models override what pydantic 2.11 deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"
)


class Watcher:
    """The processes of one service: they need a moment to end."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self._events = events

    async def _stop(self, close_output_streams: bool) -> None:
        self._events.append(f"{self.name} told")
        await asyncio.sleep(0)
        self._events.append(f"{self.name} ended")


def supervisor_of(events: list[str]) -> Any:
    class Supervisor:
        _stopping = False

        def iter_watchers(self) -> list[Watcher]:
            return [Watcher(name, events) for name in ("service_ModelRunner", "service")]

        async def stop(self) -> None:
            events.append("everything told")

    stop_api_processes_first(Supervisor)
    return Supervisor()


async def stopped(supervisor: Any, times: int) -> None:
    await asyncio.gather(*(supervisor.stop() for _ in range(times)))


def test_api_processes_have_ended_before_anything_else_is_told() -> None:
    events: list[str] = []

    asyncio.run(stopped(supervisor_of(events), times=1))

    assert events == ["service told", "service ended", "everything told"]


def test_a_second_signal_does_not_hurry_the_first() -> None:
    events: list[str] = []

    asyncio.run(stopped(supervisor_of(events), times=2))

    assert events == ["service told", "service ended", "everything told"]


def asgi_of(service_class: type[Any]) -> Any:
    """A service with an API of the same path as a route of its mounted application."""
    mounted = app_of(Answering())

    @bentoml.service(name="Mounting", service_class=service_class, **API_CONFIG)
    @bentoml.asgi_app(mounted)
    class Mounting:
        @bentoml.api
        async def classify(self, text: str) -> str:
            return "from BentoML"

        async def __is_ready__(self) -> bool:
            return False

    return Mounting.to_asgi()  # type: ignore[attr-defined]


def ask(asgi: Any, method: str, path: str, **sent: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(send())


def test_bentoml_answers_with_its_own_api_before_a_mounted_application() -> None:
    app = asgi_of(Service)

    matching = [route for route in app.routes if getattr(route, "path", "") in ("/classify", "")]

    assert matching[0].path == "/classify"
    assert isinstance(matching[-1], bentoml_app.PassiveMount)


def test_the_mounted_application_answers_before_the_api_of_the_same_path() -> None:
    response = ask(asgi_of(MountedAppFirst), "POST", "/classify", content=b"image")

    assert response.json()["predictions"][0]["label"] == "seven"


def test_what_the_application_does_not_have_is_handed_on_to_bentoml() -> None:
    app = asgi_of(MountedAppFirst)

    assert ask(app, "GET", "/livez").text == "\n"
    assert ask(app, "GET", "/schema.json").json()["name"] == "Mounting"
    assert ask(app, "GET", "/static_content/swagger-ui.css").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/static_content/nope", 404, "not_found"),
        ("POST", "/livez", 405, "method_not_allowed"),
    ],
)
def test_errors_of_bentomls_routes_have_the_applications_shape(
    method: str, path: str, status: int, code: str
) -> None:
    response = ask(asgi_of(MountedAppFirst), method, path)

    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


def test_bentoml_makes_a_series_of_each_path_a_client_thinks_of() -> None:
    source = inspect.getsource(instruments.RunnerTrafficMetricsMiddleware)

    assert 'endpoint = scope["path"]' in source


def test_bentomls_page_loads_google_tag_manager() -> None:
    page = Path(bentoml_app.__file__).parent / "main-openapi.html"

    assert "googletagmanager" in page.read_text()


def test_bentoml_closes_the_calls_in_flight_when_it_renews_a_connection() -> None:
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


def test_bentomls_probe_of_a_runner_does_not_catch_its_time_limit() -> None:
    async def get(*_: object, **__: object) -> None:
        raise TimeoutError  # what aiohttp's ClientTimeout raises

    async def get_session() -> Any:
        return SimpleNamespace(get=get)

    client: Any = SimpleNamespace(
        _session_manager=SimpleNamespace(get_session=get_session), _readyz_endpoint="/readyz"
    )

    with pytest.raises(TimeoutError):
        asyncio.run(proxy2.AsyncClient.is_ready(client, 1))


def test_bentoml_empties_the_metrics_of_a_server_when_another_one_starts(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").write_bytes(b"x")

    ensure_prometheus_dir(str(tmp_path))

    assert list(tmp_path.iterdir()) == []


def test_bentoml_reports_its_use_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_DO_NOT_TRACK")

    assert not usage_stats.do_not_track.__wrapped__()


def test_bentoml_has_no_optional_dependencies() -> None:
    assert "optional" not in inspect.signature(bentoml.depends).parameters


def test_bentoml_starts_a_failed_worker_anew() -> None:
    assert create_watcher("service", []).respawn


def test_bentoml_removes_the_runners_socket_before_it_stops_the_processes() -> None:
    source = inspect.getsource(Arbiter.stop)

    assert source.index("exit_stack") < source.index("super().stop")


def test_uvicorn_takes_the_body_of_a_request_with_an_upgrade_for_the_next_request() -> None:
    answer = exchange(upgrade(b"h2c", b""), SMUGGLED, protocol=HttpToolsProtocol)
    lost = exchange(
        upgrade(b"h2c", SMUGGLED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
        protocol=HttpToolsProtocol,
    )

    assert b"[GET /smuggled]" in answer + lost


def test_a_stray_signal_of_the_kind_workers_send_does_not_stop_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(bentoml_compat.SUPERVISOR, f"{os.getpid()}:{tmp_path}")

    bentoml_compat._stop(signal.SIGUSR1, None)  # would send SIGTERM to this process
