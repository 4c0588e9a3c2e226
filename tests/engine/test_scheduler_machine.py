"""Any history of submit, step and abort keeps the scheduler's invariants and loses no block."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nestling.engine.kv_cache_manager import KVCacheManager
from nestling.engine.messages import SamplingParams
from nestling.engine.request import Request
from nestling.engine.scheduler import Scheduler
from nestling.errors import OverloadedError

BLOCK_SIZE = 4


class SchedulerMachine(RuleBasedStateMachine):
    """Preemption comes by itself: the pools drawn are small against the requests."""

    @initialize(blocks=st.integers(2, 12), seqs=st.integers(1, 4), extra=st.integers(0, 12))
    def begin(self, blocks: int, seqs: int, extra: int) -> None:
        self.kv = KVCacheManager(blocks, BLOCK_SIZE)
        self.budget = seqs + extra
        self.seqs = seqs
        self.scheduler = Scheduler(
            self.kv, max_num_seqs=seqs, max_num_batched_tokens=self.budget, max_waiting=6
        )
        self.arrival: dict[str, int] = {}
        self.live: dict[str, Request] = {}

    @rule(num_prompt=st.integers(1, 47), num_output=st.integers(1, 47))
    def submit(self, num_prompt: int, num_output: int) -> None:
        num_prompt = min(num_prompt, self.kv.num_slots - 1)
        request = Request(
            request_id=str(len(self.arrival)),
            token_ids=[1] * num_prompt,
            num_prompt_tokens=num_prompt,
            sampling_params=SamplingParams(),
            max_tokens=min(num_output, self.kv.num_slots - num_prompt),
            seed=0,
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

    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            self._step()

    def _step(self) -> None:
        output = self.scheduler.schedule()
        assert bool(output.scheduled) == bool(self.live)
        assert output.num_tokens <= self.budget
        names = [item.request.request_id for item in output.scheduled]
        assert len(set(names)) == len(names) <= self.seqs
        if self.live:  # the oldest progresses in every step, so everybody does in the end
            assert min(self.live, key=self.arrival.__getitem__) in names
        for item in output.scheduled:
            request = item.request
            assert 1 <= item.num_new_tokens <= request.num_missing_tokens
            assert item.is_sampled == (item.num_new_tokens == request.num_missing_tokens)
            self.kv.slots(request.request_id, request.num_computed_tokens + item.num_new_tokens)
        self.scheduler.advance(output)
        for item in output.scheduled:
            if item.is_sampled:
                item.request.token_ids.append(0)
                if item.request.num_output_tokens == item.request.max_tokens:
                    self.scheduler.remove(item.request.request_id)
                    del self.live[item.request.request_id]

    @invariant()
    def blocks_add_up(self) -> None:
        tables = [self.kv.block_table(name) for name in self.live]
        owned = [block for table in tables for block in table]
        assert len(set(owned)) == len(owned)
        assert len(owned) + self.kv.num_free_blocks == self.kv.num_blocks
        assert self.scheduler.num_running + self.scheduler.num_waiting == len(self.live)

    @invariant()
    def the_running_are_older_than_the_waiting(self) -> None:
        running = [self.arrival[name] for name in self.live if self.kv.block_table(name)]
        waiting = [self.arrival[name] for name in self.live if not self.kv.block_table(name)]
        assert max(running, default=-1) < min(waiting, default=1 << 30)

    def teardown(self) -> None:
        if not hasattr(self, "kv"):
            return
        while self.live:
            self._step()
        assert self.kv.num_free_blocks == self.kv.num_blocks


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
