"""Who computes how many tokens in the next step. No phases: each request catches up to its tokens.

Requests run in order of arrival: the running ones are always older than the waiting ones. A step
first gives every request that lacks one token (a running stream) that token, then spends the rest
of the token budget on prompts, oldest first, so a long prompt never stalls a stream. When blocks
run out, the youngest running request loses its blocks and goes back to the front of the queue, to
be recomputed. The oldest one can always go on, hence so does the engine. Runs in the loop's thread.
"""

from collections import deque
from dataclasses import dataclass

from nestling.engine.kv_cache_manager import KVCacheManager
from nestling.engine.request import Request
from nestling.errors import OverloadedError


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """The next `num_new_tokens` tokens of one request, from `num_computed_tokens` on."""

    request: Request
    num_new_tokens: int
    is_sampled: bool
    """The chunk reaches the last token, so its logits give the next one."""


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One step's work; requests are distinct and every one has its slots."""

    scheduled: tuple[ScheduledRequest, ...]
    num_preempted: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(item.num_new_tokens for item in self.scheduled)


class Scheduler:
    """The waiting queue and the running batch; owns each request's blocks through the manager."""

    def __init__(
        self,
        kv_cache_manager: KVCacheManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_waiting: int,
    ) -> None:
        assert max_num_batched_tokens >= max_num_seqs  # so that every running request progresses
        self._kv = kv_cache_manager
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_waiting = max_waiting
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._live: dict[str, Request] = {}

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def live(self) -> tuple[Request, ...]:
        """Every request that is waiting or running, by arrival."""
        return tuple(self._live.values())

    def is_live(self, request_id: str) -> bool:
        return request_id in self._live

    def add(self, request: Request) -> None:
        """Queue a request that fits the cache; raises `OverloadedError` if the queue is full."""
        assert request.request_id not in self._live
        assert request.num_prompt_tokens + request.max_tokens <= self._kv.num_slots
        if len(self._live) >= self._max_num_seqs + self._max_waiting:
            raise OverloadedError(
                f"the queue is full: {len(self._running)} requests are running and "
                f"{len(self._waiting)} waiting",
                # No clock here: a guess of one second for each batch that is ahead.
                retry_after_s=1 + len(self._waiting) // self._max_num_seqs,
            )
        self._live[request.request_id] = request
        self._waiting.append(request)

    def schedule(self) -> SchedulerOutput:
        """The next step; empty only if no request is live."""
        scheduled: list[ScheduledRequest] = []
        num_preempted = self._schedule_streams(scheduled)
        budget = self._max_num_batched_tokens - len(scheduled)
        for request in self._running:
            if request.num_missing_tokens > 1 and budget > 0:
                budget -= self._take(request, budget, scheduled)
        if num_preempted == 0:
            self._admit(budget, scheduled)
        assert scheduled or not self._live
        return SchedulerOutput(tuple(scheduled), num_preempted)

    def _schedule_streams(self, scheduled: list[ScheduledRequest]) -> int:
        """Schedule all that lack one token, oldest first; returns how many lost their blocks.

        Preemption takes from the end of `_running`, so it never meets one already scheduled. Only
        streams need new blocks here: a prompt got all of its own when it was admitted.
        """
        num_preempted = 0
        index = 0
        while index < len(self._running):
            request = self._running[index]
            index += 1
            if request.num_missing_tokens != 1:
                continue
            while not self._kv.allocate(request.request_id, request.num_tokens):
                num_preempted += 1
                if self._preempt_youngest() is request:
                    return num_preempted
            self._take(request, 1, scheduled)
        return num_preempted

    def _preempt_youngest(self) -> Request:
        request = self._running.pop()
        self._kv.free(request.request_id)
        request.num_computed_tokens = 0
        self._waiting.appendleft(request)
        return request

    def _admit(self, budget: int, scheduled: list[ScheduledRequest]) -> None:
        """Move waiting requests in, strictly by arrival, while places, blocks and budget last."""
        while self._waiting and len(self._running) < self._max_num_seqs and budget > 0:
            request = self._waiting[0]
            if not self._kv.allocate(request.request_id, request.num_tokens):
                return
            self._running.append(self._waiting.popleft())
            budget -= self._take(request, budget, scheduled)

    def _take(self, request: Request, budget: int, scheduled: list[ScheduledRequest]) -> int:
        num_missing = request.num_missing_tokens
        num_new = min(num_missing, budget)
        scheduled.append(ScheduledRequest(request, num_new, num_new == num_missing))
        return num_new

    def advance(self, output: SchedulerOutput) -> None:
        """Note that the step was computed: its keys and values are in the cache."""
        for item in output.scheduled:
            item.request.num_computed_tokens += item.num_new_tokens

    def remove(self, request_id: str) -> Request | None:
        """Take a request out wherever it is and free its blocks; None if it is not live."""
        request = self._live.pop(request_id, None)
        if request is None:
            return None
        self._kv.free(request_id)
        if request in self._running:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        return request
