"""Who gets which tokens of a step, on a scheduler without a model."""

import pytest

from nestling.engine.clients.messages import SamplingParams
from nestling.engine.kv.manager import CachedPrefix, KVCacheManager
from nestling.engine.request import Request
from nestling.engine.scheduler import Scheduler, SchedulerOutput
from nestling.errors import OverloadedError


class World:
    """A scheduler whose model always answers token 0."""

    def __init__(
        self, *, blocks: int = 64, seqs: int = 4, tokens: int = 8, waiting: int = 100
    ) -> None:
        self.kv = KVCacheManager(
            num_blocks=blocks,
            num_sliding_blocks=128,
            block_size=4,
            sliding_window=10,
            max_rows=tokens,
        )
        self.scheduler = Scheduler(
            self.kv, max_num_seqs=seqs, max_num_batched_tokens=tokens, max_waiting=waiting
        )

    def add(self, name: str, num_prompt: int, max_tokens: int = 50) -> Request:
        request = Request(
            request_id=name,
            token_ids=[ord(name[0]), *range(1, num_prompt)],
            num_prompt_tokens=num_prompt,
            sampling_params=SamplingParams(),
            max_tokens=min(max_tokens, self.kv.num_slots - num_prompt),
            seed=0,
        )
        self.scheduler.add(request)
        return request

    def step(self, max_prompt_rows: int | None = None) -> dict[str, int]:
        """Who was given how many tokens; done requests are removed."""
        output = self.scheduler.schedule(max_prompt_rows)
        self.complete(output)
        return {item.request.request_id: item.num_new_tokens for item in output.scheduled}

    def complete(self, output: SchedulerOutput) -> None:
        self.scheduler.advance(output)
        for item in output.scheduled:
            if item.is_sampled:
                item.request.token_ids.append(0)
                if item.request.num_output_tokens == item.request.max_tokens:
                    self.scheduler.remove(item.request.request_id)


def test_a_long_prompt_is_computed_in_chunks() -> None:
    world = World(tokens=8)
    request = world.add("a", 19)
    assert [world.step() for _ in range(4)] == [{"a": 8}, {"a": 8}, {"a": 3}, {"a": 1}]
    assert request.num_output_tokens == 2


def test_streams_come_before_a_long_prompt() -> None:
    world = World(tokens=8)
    world.add("stream", 3)
    world.step()
    world.add("long", 40)
    for _ in range(5):
        assert world.step() == {"stream": 1, "long": 7}


def test_streams_come_before_an_older_prompt_too() -> None:
    world = World(tokens=8)
    world.add("long", 40)
    world.step()
    world.add("short", 2)
    assert world.step() == {"long": 8}
    for _ in range(3):
        world.step()
    assert world.step() == {"long": 1, "short": 2}


def test_places_are_bounded_and_given_by_arrival() -> None:
    world = World(seqs=2, tokens=8)
    world.add("a", 1, max_tokens=2)
    world.add("b", 1, max_tokens=9)
    world.add("c", 1, max_tokens=9)
    assert world.step() == {"a": 1, "b": 1}
    assert world.step() == {"a": 1, "b": 1}
    assert world.step() == {"b": 1, "c": 1}


def test_nobody_overtakes_a_request_that_waits_for_blocks() -> None:
    world = World(blocks=4, tokens=64)
    world.add("a", 8, max_tokens=3)
    world.add("large", 12, max_tokens=2)
    world.add("small", 1, max_tokens=2)
    assert world.step() == {"a": 8}
    world.step()
    world.step()
    assert world.step() == {"large": 12, "small": 1}


def test_who_waits_for_blocks_looks_again_only_when_there_are_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(blocks=4, tokens=64)
    world.add("a", 8, max_tokens=5)
    large = world.add("large", 12, max_tokens=2)
    looked: list[Request] = []
    find = world.kv.find_prefix

    def remembered(request: Request) -> CachedPrefix:
        looked.append(request)
        return find(request)

    monkeypatch.setattr(world.kv, "find_prefix", remembered)
    for _ in range(5):
        world.step()
    assert looked.count(large) == 1
    assert world.step() == {"large": 12}
    assert looked.count(large) == 2


def test_a_prompts_chunks_beside_streams_are_bounded_and_whole_tiles() -> None:
    world = World(blocks=100, tokens=100)
    world.add("long", 300)
    assert world.step(max_prompt_rows=32) == {"long": 96}  # nobody waits for it
    world.add("stream", 3)
    rows = [world.step(max_prompt_rows=40) for _ in range(3)]
    assert rows[0] == {"long": 96, "stream": 3}
    assert rows[1:3] == [{"long": 32, "stream": 1}] * 2


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    world = World(seqs=2, waiting=3)
    for i in range(5):
        world.add(str(i), 1)
    with pytest.raises(OverloadedError, match=r"0 requests are running and 5 waiting") as info:
        world.add("x", 1)
    assert info.value.retry_after_s == 3
    world.step()
    with pytest.raises(OverloadedError, match=r"2 requests are running and 3 waiting"):
        world.add("x", 1)
    world.scheduler.remove("4")
    world.add("x", 1)


def test_without_a_queue_only_running_places_are_given() -> None:
    world = World(seqs=1, waiting=0)
    world.add("a", 1)
    with pytest.raises(OverloadedError):
        world.add("b", 1)


def test_the_youngest_loses_its_blocks_and_is_recomputed_first() -> None:
    world = World(blocks=4, tokens=64)
    old = world.add("old", 7, max_tokens=9)
    young = world.add("young", 8, max_tokens=5)
    last = world.add("last", 1, max_tokens=1)
    assert world.step() == {"old": 7, "young": 8}  # "last" finds no block
    assert world.kv.full_pool.num_free == 0
    assert world.step() == {"old": 1}  # the ninth position of "young" has no slot: it stops itself
    assert young.num_computed_tokens == 0
    assert young.num_output_tokens == 1
    assert world.kv.full_pool.num_free == 2
    assert world.step() == {"old": 1}  # takes one more block; "young" needs three
    while old.num_output_tokens < 9:
        step = world.step()
        assert "last" not in step
        assert "young" not in step
    assert world.step() == {"young": 9, "last": 1}
    assert last.num_output_tokens == 1


def test_an_older_stream_takes_the_blocks_of_a_younger_prompt() -> None:
    world = World(blocks=4, seqs=2, tokens=2)
    world.add("old", 4, max_tokens=12)
    assert [world.step(), world.step()] == [{"old": 2}, {"old": 2}]
    young = world.add("young", 8, max_tokens=2)
    for _ in range(4):
        assert world.step() == {"old": 1, "young": 1}
    output = world.scheduler.schedule()  # position 8 of "old" needs the third block
    assert [item.request.request_id for item in output.scheduled] == ["old"]
    assert output.num_preempted == 1
    assert young.num_computed_tokens == 0
    assert (world.scheduler.num_running, world.scheduler.num_waiting) == (1, 1)


def test_removal_frees_blocks_wherever_the_request_is() -> None:
    world = World(blocks=8, seqs=2, tokens=4)
    world.add("running", 2)
    world.add("prefilling", 20)
    world.add("waiting", 2)
    world.step()
    for name in ("waiting", "prefilling", "running"):
        assert world.scheduler.remove(name) is not None
        assert world.scheduler.remove(name) is None
    assert world.kv.full_pool.num_free == 8
    assert (world.scheduler.num_running, world.scheduler.num_waiting) == (0, 0)
    assert not world.scheduler.schedule().scheduled
