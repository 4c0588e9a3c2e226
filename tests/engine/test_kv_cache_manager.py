"""Blocks: all or nothing, never shared, all back at the end."""

from hypothesis import given
from hypothesis import strategies as st

from nestling.engine.kv_cache_manager import KVCacheManager


def test_allocation_is_all_or_nothing() -> None:
    kv = KVCacheManager(num_blocks=4, block_size=4)
    assert kv.allocate("a", 9)
    assert kv.num_free_blocks == 1
    assert not kv.allocate("b", 5)
    assert kv.num_free_blocks == 1
    assert kv.block_table("b") == ()
    assert kv.allocate("b", 4)
    assert not kv.allocate("b", 5)
    kv.free("a")
    assert kv.allocate("b", 5)
    kv.free("b")
    kv.free("unknown")
    assert kv.num_free_blocks == 4


def test_allocating_less_than_owned_changes_nothing() -> None:
    kv = KVCacheManager(num_blocks=4, block_size=4)
    kv.allocate("a", 9)
    table = kv.block_table("a")
    assert kv.allocate("a", 1)
    assert kv.block_table("a") == table


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=40))
def test_slots_are_disjoint_and_stable(history: list[tuple[str, int]]) -> None:
    kv = KVCacheManager(num_blocks=12, block_size=4)
    lengths: dict[str, int] = {}
    before: dict[str, list[int]] = {}
    for name, num_tokens in history:
        if num_tokens == 0:
            kv.free(name)
            lengths.pop(name, None)
            before.pop(name, None)
        elif kv.allocate(name, num_tokens):
            lengths[name] = max(num_tokens, lengths.get(name, 0))
        slots = {key: kv.slots(key, length).tolist() for key, length in lengths.items()}
        every = [slot for owned in slots.values() for slot in owned]
        assert len(set(every)) == len(every)
        assert all(slots[key][: len(old)] == old for key, old in before.items())
        assert all(0 <= slot < kv.num_slots for slot in every)
        before = slots
    for name in lengths:
        kv.free(name)
    assert kv.num_free_blocks == 12
