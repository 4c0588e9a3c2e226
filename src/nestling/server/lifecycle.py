"""Which requests are running, and how they end when the server or their client goes away.

One `Lifecycle` belongs to one app; everything runs on the web process's event loop.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from nestling.errors import NestlingError, ServerShutdownError

T = TypeVar("T")


class ClientDisconnectedError(Exception):
    """The client went away; there is nobody to answer."""


class Lifecycle:
    """No new work is taken once `is_draining` is true; at `cut` what still runs is ended."""

    def __init__(self) -> None:
        self.is_draining = False
        self.num_running = 0
        self._cut = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def drain(self) -> None:
        """Take no new work: /readyz answers 503, and so does a new request."""
        self.is_draining = True

    def cut(self) -> None:
        """End what still runs with `ServerShutdownError`."""
        self._cut.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs; False if that took longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def run(
        self, work: Coroutine[Any, Any, T], receive: Receive, stop: asyncio.Future[NestlingError]
    ) -> T:
        """Run `work` to its end, or cancel it when the client or the server goes or `stop` is set.

        The body must have been read: `receive` is watched for the disconnect. Raises
        `ClientDisconnectedError`, `ServerShutdownError` or the result of `stop`, after `work` has
        cleaned up.
        """
        self.num_running += 1
        self._idle.clear()
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(receive))
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            waited: set[asyncio.Future[Any]] = {task, gone, cut, stop}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if task.done() or await _cancel(task):
                return await task
            if stop.done():
                raise stop.result()
            if cut.done():
                raise ServerShutdownError("the server is shutting down")
            raise ClientDisconnectedError
        finally:
            await _cancel(task)
            await _cancel(gone)
            await _cancel(cut)
            self.num_running -= 1
            if self.num_running == 0:
                self._idle.set()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: "asyncio.Future[Any]") -> bool:
    """Cancel a task and wait for it; True if it came to an end of its own all the same."""
    task.cancel()
    await asyncio.wait({task})
    return not task.cancelled() and task.exception() is None
