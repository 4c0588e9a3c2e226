"""Decides who computes how many tokens in the next step. Each request catches up to its tokens.

Requests run in order of arrival: the running ones are always older than the waiting ones. A step
has a row for every request that lacks one token (a decode request); the rest of the token budget
goes to prompts, oldest first, and while others decode only as much of it as the step's time allows,
so a long prompt never stalls a reply. When blocks run out, the youngest running request loses its
blocks and goes back to the front of the queue; what the prefix cache still has of it is not
computed again. The oldest one can always go on, hence so does the engine. Runs in the loop's
thread.
"""

from collections import deque
from dataclasses import dataclass

from nestling.engine.kv.manager import KVCacheManager
from nestling.engine.prefill_budget import ROW_MULTIPLE
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

    num_decode_requests: int = 0
    """Rows of requests that lacked one token; all others are rows of prompts."""

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
        self._blocked: tuple[Request, int, int] | None = None
        """Who found no room, how many blocks were free, how many were running: it need not look
        again before there are more of the one or fewer of the other."""

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

    def schedule(self, max_prompt_rows: int | None = None) -> SchedulerOutput:
        """The next step; empty only if no request is live.

        `max_prompt_rows` bounds the rows of prompts beside decode requests.
        """
        scheduled: list[ScheduledRequest] = []
        num_decode_requests = sum(request.num_missing_tokens == 1 for request in self._running)
        budget = self._max_num_batched_tokens - num_decode_requests
        if num_decode_requests and max_prompt_rows is not None:
            budget = min(budget, max_prompt_rows)
        num_preempted = 0
        num_decode_requests = 0
        index = 0
        while index < len(self._running):  # preemption takes from the end, never one behind us
            request = self._running[index]
            index += 1
            is_decode = request.num_missing_tokens == 1
            num_wanted = 1 if is_decode else _chunk(request.num_missing_tokens, budget)
            if not num_wanted:
                continue
            while not (num_new := self._kv.grow(request, num_wanted)):
                num_preempted += 1
                if self._preempt_youngest() is request:
                    break
            else:
                scheduled.append(_scheduled(request, num_new))
                num_decode_requests += is_decode
                budget -= 0 if is_decode else num_new
        if num_preempted == 0:
            self._admit(budget, scheduled)
        assert scheduled or not self._live
        return SchedulerOutput(tuple(scheduled), num_preempted, num_decode_requests)

    def _preempt_youngest(self) -> Request:
        request = self._running.pop()
        self._kv.free(request)
        request.num_computed_tokens = 0
        self._waiting.appendleft(request)
        return request

    def _admit(self, budget: int, scheduled: list[ScheduledRequest]) -> None:
        """Move waiting requests in, strictly by arrival, while places, blocks and budget last.

        One whose beginning this very step computes for another waits for the next step, to find it
        in the cache.
        """
        while self._waiting and len(self._running) < self._max_num_seqs and budget > 0:
            request = self._waiting[0]
            if self._is_blocked(request):
                return
            prefix = self._kv.find_prefix(request)
            if any(
                self._kv.is_being_computed(request, prefix, item.request, item.num_new_tokens)
                for item in scheduled
            ):
                return
            if not self._kv.begin(request, prefix):
                self._blocked = (request, self._kv.full_pool.num_free, len(self._running))
                return
            self._running.append(self._waiting.popleft())
            num_new = self._kv.grow(request, _chunk(request.num_missing_tokens, budget))
            assert num_new > 0  # `begin` has left it blocks
            scheduled.append(_scheduled(request, num_new))
            budget -= num_new

    def _is_blocked(self, request: Request) -> bool:
        if self._blocked is None or self._blocked[0] is not request:
            return False
        _, num_free, num_running = self._blocked
        return self._kv.full_pool.num_free <= num_free and len(self._running) >= num_running

    def advance(self, output: SchedulerOutput) -> None:
        """Note that the step was computed: its keys and values are in the cache."""
        for item in output.scheduled:
            item.request.num_computed_tokens += item.num_new_tokens
            self._kv.advance(item.request)

    def remove(self, request_id: str) -> Request | None:
        """Take a request out wherever it is and free its blocks; None if it is not live."""
        request = self._live.pop(request_id, None)
        if request is None:
            return None
        self._kv.free(request)
        if request in self._running:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        return request


def _scheduled(request: Request, num_new_tokens: int) -> ScheduledRequest:
    return ScheduledRequest(request, num_new_tokens, num_new_tokens == request.num_missing_tokens)


def _chunk(num_missing: int, budget: int) -> int:
    """Return how much of a prompt to compute: all, or as many whole tiles as the budget has."""
    num_new = min(num_missing, budget)
    if ROW_MULTIPLE <= num_new < num_missing:
        num_new -= num_new % ROW_MULTIPLE
    return num_new
