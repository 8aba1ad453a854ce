"""A call to the runner in another process: bounded in time, repeated once where it got lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from image_classifier.errors import NotReady

Answered = TypeVar("Answered")


async def from_runner(
    call: Callable[[], Awaitable[Answered]], *, timeout_s: float, refusal: type[Exception]
) -> Answered:
    """The answer of the runner.

    Args:
        call: Makes the call; made a second time where the connection was lost.
        timeout_s: Seconds both may take together.
        refusal: What `call` raises where the runner does not take it.

    Raises:
        NotReady: The runner is gone, too slow, or does not take the call.
    """
    # Not above: an embedded service calls no runner, and would start 0.1 s later for it.
    import aiohttp

    try:
        async with asyncio.timeout(timeout_s):
            try:
                return await call()
            except aiohttp.ClientConnectionError:
                # aiohttp keeps an idle connection 15 s, the runner's server 5 s: a call on one
                # that was just closed is lost. The second try takes another one.
                return await call()
    except (aiohttp.ClientError, TimeoutError, refusal) as error:
        raise NotReady("the model cannot be reached; try again") from error
