"""Any history of submit, step and abort keeps the scheduler's invariants and loses no block.

The fake model checks at each step that every token's context is in the blocks that the batch names,
so shared, evicted, preempted and resumed prefixes are all read back.
"""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nestling.engine.batch_builder import build_batch
from nestling.engine.clients.messages import SamplingParams
from nestling.engine.kv.manager import KVCacheManager
from nestling.engine.kv.sizes import blocks_of_window
from nestling.engine.request import Request
from nestling.engine.scheduler import Scheduler
from nestling.errors import OverloadedError

from .fake_model import SLIDING_WINDOW, FakeRunner, oracle_logits

BLOCK_SIZE = 4
PREFIXES = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17], [1, 2, 3, 4, 9], []]
LEAST_SLIDING = blocks_of_window(SLIDING_WINDOW, BLOCK_SIZE)


class CheckedManager(KVCacheManager):
    """Among several requests, only blocks of the full layers may run out."""

    def grow(self, request: Request, num_new_tokens: int) -> int:
        given = super().grow(request, num_new_tokens)
        assert given == num_new_tokens or not self.full_pool.num_free or len(self._sequences) == 1
        return given


class SchedulerMachine(RuleBasedStateMachine):
    """Preemption comes by itself: the pools drawn are small against the requests."""

    @initialize(
        blocks=st.integers(2, 14),
        sliding=st.sampled_from([64, 64, 64, 30, LEAST_SLIDING]),
        seqs=st.integers(1, 4),
        extra=st.integers(0, 40),
        prefix_caching=st.sampled_from([True, True, True, False]),
    )
    def begin(
        self, blocks: int, sliding: int, seqs: int, extra: int, *, prefix_caching: bool
    ) -> None:
        self.runner = FakeRunner(num_blocks=blocks, num_sliding_blocks=sliding)
        self.kv = CheckedManager(
            num_blocks=blocks,
            num_sliding_blocks=sliding,
            block_size=BLOCK_SIZE,
            sliding_window=SLIDING_WINDOW,
            max_rows=seqs + extra,
            prefix_caching=prefix_caching,
        )
        self.prefix_caching = prefix_caching
        self.budget = seqs + extra
        self.seqs = seqs
        self.scheduler = Scheduler(
            self.kv, max_num_seqs=seqs, max_num_batched_tokens=self.budget, max_waiting=6
        )
        self.arrival: dict[str, int] = {}
        self.live: dict[str, Request] = {}

    @rule(
        prefix=st.sampled_from(PREFIXES),
        num_more=st.integers(1, 40),
        token_id=st.integers(20, 22),
        num_output=st.integers(1, 47),
        salt=st.sampled_from(["a", "a", "b"]),
    )
    def submit(
        self, prefix: list[int], num_more: int, token_id: int, num_output: int, salt: str
    ) -> None:
        prompt = (prefix + [token_id] * num_more)[: self.kv.num_slots - 1]
        request = Request(
            request_id=str(len(self.arrival)),
            token_ids=prompt,
            num_prompt_tokens=len(prompt),
            sampling_params=SamplingParams(),
            max_tokens=min(num_output, self.kv.num_slots - len(prompt)),
            seed=0,
            cache_salt=salt,
        )
        self.arrival[request.request_id] = len(self.arrival)
        try:
            self.scheduler.add(request)
        except OverloadedError:
            assert len(self.live) == self.seqs + 6
        else:
            self.live[request.request_id] = request

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        assert self.scheduler.remove(name) is self.live.pop(name)

    @rule(times=st.integers(1, 15), max_prompt_rows=st.none() | st.integers(1, 20))
    def step(self, times: int, max_prompt_rows: int | None) -> None:
        for _ in range(times):
            self._step(max_prompt_rows)

    def _step(self, max_prompt_rows: int | None = None) -> None:
        output = self.scheduler.schedule(max_prompt_rows)
        assert bool(output.scheduled) == bool(self.live)
        assert output.num_tokens <= self.budget
        if output.num_decode_requests and max_prompt_rows is not None:
            assert output.num_tokens - output.num_decode_requests <= max_prompt_rows
        names = [item.request.request_id for item in output.scheduled]
        assert len(set(names)) == len(names) <= self.seqs
        if not self.live:
            return
        # The oldest progresses in every step, so everybody does in the end.
        assert min(self.live, key=self.arrival.__getitem__) in names
        for item in output.scheduled:
            request = item.request
            assert 1 <= item.num_new_tokens <= request.num_missing_tokens
            assert item.is_sampled == (item.num_new_tokens == request.num_missing_tokens)
            assert request.num_cached_tokens is not None
            assert request.num_cached_tokens % BLOCK_SIZE == 0
            assert request.num_cached_tokens < request.num_prompt_tokens
            assert self.prefix_caching or request.num_cached_tokens == 0
        logits = self.runner.execute(build_batch(output, self.kv))
        self.scheduler.advance(output)
        sampled = [item.request for item in output.scheduled if item.is_sampled]
        for request, row in zip(sampled, logits, strict=True):
            assert (row == oracle_logits(request.token_ids)).all()
            request.token_ids.append(int(row[:20].argmax()))
            if request.num_output_tokens == request.max_tokens:
                self.scheduler.remove(request.request_id)
                del self.live[request.request_id]

    @invariant()
    def blocks_add_up(self) -> None:
        tables = [self.kv.block_tables(name) for name in self.live]
        for pool, number in ((self.kv.full_pool, 0), (self.kv.sliding_pool, 1)):
            held = Counter(block for table in tables for block in table[number])
            assert len(held) + pool.num_free == pool.num_blocks
            assert pool._num_references == [held[block] for block in range(pool.num_blocks)]
        assert self.scheduler.num_running + self.scheduler.num_waiting == len(self.live)

    @invariant()
    def a_window_is_all_that_sliding_layers_hold(self) -> None:
        for name in self.live:
            assert len(self.kv.block_tables(name)[1]) <= LEAST_SLIDING

    @invariant()
    def blocks_are_shared_under_one_salt_alone(self) -> None:
        for number in (0, 1):
            held: dict[str, set[int]] = {"a": set(), "b": set()}
            for name, request in self.live.items():
                held[request.cache_salt].update(self.kv.block_tables(name)[number])
            assert not held["a"] & held["b"]

    @invariant()
    def the_running_are_older_than_the_waiting(self) -> None:
        is_running = {name: bool(self.kv.block_tables(name)[0]) for name in self.live}
        running = [self.arrival[name] for name in self.live if is_running[name]]
        waiting = [self.arrival[name] for name in self.live if not is_running[name]]
        assert max(running, default=-1) < min(waiting, default=1 << 30)

    def teardown(self) -> None:
        if not hasattr(self, "kv"):
            return
        while self.live:
            self._step()
        assert self.kv.num_free == (self.runner.num_blocks, self.runner.num_sliding_blocks)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=40)
