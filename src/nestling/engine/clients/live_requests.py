"""The live requests of one client: routes the engine's events to the iterators that wait for them.

Shared by both clients. Runs on the client's asyncio loop alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

from nestling.engine.clients.messages import EngineEvent, RequestFailed, Stats, TokenOutput
from nestling.errors import (
    ContextLengthExceededError,
    EngineError,
    InvalidRequestError,
    NestlingError,
    OverloadedError,
)


class LiveRequests:
    """A queue for each live request; a request_id stays taken until its last event has come.

    Queues need no bound of their own: a request makes at most `max_tokens` small events.
    """

    def __init__(self, max_live: int) -> None:
        self._max_live = max_live
        """Of more at once the engine would refuse the newest, but only after its present step."""
        self._leaving: set[str] = set()
        """Live ones that have been aborted: the engine drops them before it takes any other."""
        self._queues: dict[str, asyncio.Queue[TokenOutput | NestlingError]] = {}
        self._probes: dict[int, asyncio.Future[Stats]] = {}
        self._unanswered: set[int] = set()
        """Probes that the engine has yet to answer, whether or not somebody still waits."""
        self._num_probes = 0
        self.last_stats: Stats | None = None

    def __len__(self) -> int:
        return len(self._queues)

    @property
    def has_work(self) -> bool:
        """The engine owes somebody something."""
        return bool(self._queues or self._unanswered)

    def is_live(self, request_id: str) -> bool:
        return request_id in self._queues

    async def generate(
        self, request_id: str, *, start: Callable[[], None], abort: Callable[[], None]
    ) -> AsyncGenerator[TokenOutput, None]:
        """Start the request and yield its outputs; leaving early aborts it."""
        if request_id in self._queues:
            raise InvalidRequestError(f"request_id {request_id!r} is in use", param="request_id")
        if len(self._queues) - len(self._leaving) >= self._max_live:
            raise OverloadedError(f"{self._max_live} requests are computed or wait already")
        events: asyncio.Queue[TokenOutput | NestlingError] = asyncio.Queue()
        start()
        self._queues[request_id] = events
        try:
            while True:
                event = await events.get()
                if isinstance(event, NestlingError):
                    raise event
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            if self._queues.get(request_id) is events:
                self._leaving.add(request_id)
                abort()

    async def probe(self, send: Callable[[int], None], timeout_s: float) -> Stats | None:
        """Send a numbered probe and return its answer; None if none comes in time."""
        self._num_probes += 1
        probe_id = self._num_probes
        answer: asyncio.Future[Stats] = asyncio.get_running_loop().create_future()
        self._probes[probe_id] = answer
        try:
            self._unanswered.add(probe_id)
            send(probe_id)
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            return None
        finally:
            del self._probes[probe_id]

    def dispatch(self, events: Iterable[EngineEvent]) -> None:
        """Hand each event to whoever waits for it; one whose request is gone is dropped."""
        for event in events:
            if isinstance(event, TokenOutput):
                is_last = event.finish_reason is not None
                self._put(event.request_id, event, is_last=is_last)
            elif isinstance(event, RequestFailed):
                self._put(event.request_id, error_from(event), is_last=True)
            elif isinstance(event, Stats):
                self.last_stats = event
                self._unanswered.discard(event.probe_id)
                answer = self._probes.get(event.probe_id)
                if answer is not None and not answer.done():
                    answer.set_result(event)

    def fail_all(self, make_error: Callable[[], NestlingError]) -> None:
        """End every live request and every open probe with an error of its own."""
        for request_id in tuple(self._queues):
            self._put(request_id, make_error(), is_last=True)
        for answer in self._probes.values():
            if not answer.done():
                answer.set_exception(make_error())
        self._unanswered.clear()
        self.last_stats = None

    def _put(self, request_id: str, event: TokenOutput | NestlingError, *, is_last: bool) -> None:
        events = self._queues.pop(request_id, None) if is_last else self._queues.get(request_id)
        if is_last:
            self._leaving.discard(request_id)
        if events is not None:
            events.put_nowait(event)


def error_from(failed: RequestFailed) -> NestlingError:
    """The exception of the tree that the failure's code names."""
    if failed.code == OverloadedError.code:
        return OverloadedError(failed.message, retry_after_s=failed.retry_after_s or 1)
    for kind in (ContextLengthExceededError, InvalidRequestError):
        if failed.code == kind.code:
            return kind(failed.message, param=failed.param)
    return EngineError(failed.message, param=failed.param, code=failed.code)
