"""How a server with a runner stops: the API processes finish first, then the runner."""

from typing import Any

API_PROCESSES = "service"
"""What BentoML 1.4.39 calls those of the entry service (_bentoml_impl/server/serving.py)."""


def let_requests_finish(supervisor: type[Any]) -> None:
    """Called in the supervisor, before workers start: stop the API processes before the runner.

    BentoML 1.4.39 removes the directory of the runner's socket and then stops all processes at
    once (bentoml/_internal/utils/circus, `Arbiter.stop`): what an API process had accepted and
    not yet sent to the runner was lost (tests/service/test_stopping.py).

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
