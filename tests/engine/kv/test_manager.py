"""Blocks of two pools, and which prefixes are found again: by content, salt and window."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.engine.clients.messages import SamplingParams
from nestling.engine.kv.block_pool import BlockPool
from nestling.engine.kv.manager import KVCacheManager
from nestling.engine.request import Request


def manager(
    num_blocks: int = 64,
    num_sliding_blocks: int = 64,
    *,
    block_size: int = 4,
    window: int = 10,
    max_rows: int = 64,
    prefix_caching: bool = True,
) -> KVCacheManager:
    return KVCacheManager(
        num_blocks=num_blocks,
        num_sliding_blocks=num_sliding_blocks,
        block_size=block_size,
        sliding_window=window,
        max_rows=max_rows,
        prefix_caching=prefix_caching,
    )


def request(name: str, token_ids: Sequence[int], salt: str = "") -> Request:
    return Request(
        request_id=name,
        token_ids=list(token_ids),
        num_prompt_tokens=len(token_ids),
        sampling_params=SamplingParams(),
        max_tokens=8,
        seed=0,
        cache_salt=salt,
    )


def compute(kv: KVCacheManager, subject: Request, chunk: int = 1 << 30) -> int:
    """Admit a request and compute all its tokens; returns how many it had to compute."""
    assert kv.begin(subject, kv.find_prefix(subject))
    total = 0
    while subject.num_missing_tokens:
        num_new = kv.grow(subject, min(chunk, subject.num_missing_tokens))
        assert num_new
        subject.num_computed_tokens += num_new
        kv.advance(subject)
        total += num_new
    return total


def visit(kv: KVCacheManager, token_ids: Sequence[int], salt: str = "", chunk: int = 8) -> int:
    """Compute a prompt and be gone; returns how many tokens the cache had."""
    subject = request("visit", token_ids, salt)
    compute(kv, subject, chunk)
    kv.free(subject)
    assert subject.num_cached_tokens is not None
    return subject.num_cached_tokens


# --- blocks --------------------------------------------------------------------------------------


def test_begin_takes_the_full_blocks_of_the_whole_prompt_or_nothing() -> None:
    kv = manager(4, 8)
    first, second = request("a", range(9)), request("b", range(50, 55))
    assert kv.begin(first, kv.find_prefix(first))
    assert kv.num_free == (1, 8)
    assert not kv.begin(second, kv.find_prefix(second))
    assert kv.num_free == (1, 8)
    assert kv.block_tables("b") == ((), ())
    kv.free(first)
    kv.free(first)
    assert kv.begin(second, kv.find_prefix(second))
    assert kv.num_free == (2, 8)


def test_windows_are_reserved_so_that_sliding_blocks_never_run_out() -> None:
    """14 blocks: 4 for the rows of a step, 5 a long request (4 of a window, one of a chunk)."""
    kv = manager(64, 14, max_rows=16)
    long, short, other = request("a", range(30)), request("b", range(4)), request("c", range(30))
    other.token_ids[0] = short.token_ids[0] = 99
    assert kv.begin(long, kv.find_prefix(long))
    assert kv.begin(short, kv.find_prefix(short))  # 12 tokens at most: 3 blocks and one
    assert not kv.begin(other, kv.find_prefix(other))
    kv.free(short)
    assert kv.begin(other, kv.find_prefix(other))
    kv.free(other)
    kv.free(long)
    tight = manager(64, 4, max_rows=16)  # alone, a request makes do with its window
    assert tight.begin(other, tight.find_prefix(other))
    assert not tight.begin(short, tight.find_prefix(short))
    assert tight.grow(other, 16) == 16


def test_growth_stops_where_either_pool_ends() -> None:
    kv = manager(8, 4)
    subject = request("a", range(30))
    assert kv.begin(subject, kv.find_prefix(subject))
    assert kv.grow(subject, 30) == 16
    assert kv.grow(subject, 30) == 16  # asked again, nothing is taken twice
    assert kv.num_free == (0, 0)
    subject.num_computed_tokens = 16
    kv.advance(subject)  # the window of token 16 begins at token 7, in the second block
    assert kv.grow(subject, 14) == 4


def test_sliding_blocks_are_given_back_when_their_window_has_passed() -> None:
    kv = manager(window=10)
    subject = request("a", range(40))
    compute(kv, subject, chunk=40)
    full, sliding = kv.block_tables("a")
    assert len(full) == 10
    assert len(sliding) == 3  # tokens 31 to 39, which token 40 will see: blocks 7, 8 and 9
    tables = kv.tables([subject], [40])
    assert (tables[1][0] >= 0).tolist() == [False] * 7 + [True] * 3
    kv.free(subject)
    assert kv.num_free == (64, 64)


@pytest.mark.parametrize("computed", [510, 511, 512, 513, 527, 528, 32_767])
def test_a_sequence_holds_33_blocks_of_16_for_a_window_of_512(computed: int) -> None:
    """16.5 MiB of E4B's keys and values in float16, whatever the length."""
    kv = manager(2048, 40, block_size=16, window=512)
    subject = request("a", [1] * computed)
    compute(kv, subject, chunk=16)
    begin = max(computed - 511, 0) // 16
    assert len(kv.block_tables("a")[1]) == -(-computed // 16) - begin <= 33


def test_tables_hold_each_sequence_in_its_row() -> None:
    kv = manager()
    first, second = request("a", range(9)), request("b", range(50, 66))
    compute(kv, first)
    compute(kv, second)
    full, sliding = kv.tables([second, first], [16, 9])
    assert full.shape == sliding.shape == (2, 4)
    assert full[0].tolist() == list(kv.block_tables("b")[0])
    assert full[1].tolist() == [*kv.block_tables("a")[0], -1]
    assert sliding[0].tolist() == [-1, *kv.block_tables("b")[1]]


# --- prefixes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_tokens", "num_cached"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (40, 36), (41, 40)]
)
def test_the_same_prompt_is_found_up_to_the_block_before_its_last_token(
    num_tokens: int, num_cached: int
) -> None:
    kv = manager()
    assert visit(kv, range(num_tokens)) == 0
    assert visit(kv, range(num_tokens)) == num_cached
    assert kv.num_cached_tokens == num_cached
    assert kv.num_prefix_hits == (num_cached > 0)


def test_the_found_blocks_are_the_same_and_are_shared() -> None:
    kv = manager()
    first, second = request("a", range(20)), request("b", [*range(16), 99])
    compute(kv, first)
    assert compute(kv, second) == 1
    assert kv.block_tables("a")[0][:4] == kv.block_tables("b")[0][:4]
    assert kv.block_tables("a")[0][4] != kv.block_tables("b")[0][4]
    assert kv.num_free[0] == 64 - 6
    kv.free(first)
    assert kv.num_free[0] == 64 - 5
    kv.free(second)
    assert kv.num_free == (64, 64)


def test_another_beginning_with_an_equal_block_is_not_found() -> None:
    kv = manager()
    visit(kv, [1, 1, 1, 1, 2, 2, 2, 2, 3])
    assert visit(kv, [9, 1, 1, 1, 2, 2, 2, 2, 3]) == 0
    assert visit(kv, [2, 2, 2, 2, 3]) == 0


def test_other_salts_never_find_it() -> None:
    kv = manager()
    visit(kv, range(20), "account a")
    assert visit(kv, range(20), "account b") == 0
    assert visit(kv, range(20)) == 0
    assert visit(kv, range(20), "account a") == 16


def test_nothing_is_found_when_it_is_switched_off() -> None:
    kv = manager(prefix_caching=False)
    visit(kv, range(20))
    assert visit(kv, range(20)) == 0
    assert (kv.full_pool.num_cached, kv.sliding_pool.num_cached) == (0, 0)


def test_an_answer_is_found_by_the_next_turn() -> None:
    kv = manager()
    turn = request("a", range(10))
    compute(kv, turn)
    for token_id in range(100, 130):
        turn.token_ids.append(token_id)
        assert kv.grow(turn, 1) == 1
        turn.num_computed_tokens += 1
        kv.advance(turn)
    kv.free(turn)
    assert visit(kv, [*range(10), *range(100, 130), 7, 8, 9]) == 40


def test_a_hit_needs_the_window_of_the_sliding_layers() -> None:
    """Without one block of it the hit is as much shorter as the windows that are still whole."""
    kv = manager(window=10)
    subject = request("a", range(41))
    compute(kv, subject, chunk=8)
    names = subject.block_digests
    kv.free(subject)
    assert kv.find_prefix(request("b", range(41))).num_blocks == 10
    forget(kv.sliding_pool, names[8])  # seen from token 40, whose window begins at token 31
    assert kv.find_prefix(request("b", range(41))).num_blocks == 8  # sees tokens 23 .. 32
    forget(kv.sliding_pool, names[5])
    found = kv.find_prefix(request("b", range(41)))
    assert (found.num_blocks, found.num_full_blocks) == (5, 10)
    forget(kv.full_pool, names[2])
    assert kv.find_prefix(request("b", range(41))).num_blocks == 2


def forget(pool: BlockPool, digest: bytes) -> None:
    """As if the block had been taken and given back by a request that wrote something else."""
    block = pool.find(digest)
    assert block is not None
    assert pool.is_free(block)
    pool.share(block)
    pool._forget(block, digest)
    pool.release(block)


def test_a_longer_prompt_with_another_end_finds_the_common_beginning() -> None:
    """Behind a prompt under way, SPARE_WINDOWS windows stay before never used blocks are taken."""
    kv = manager(2048, 2048, block_size=16, window=512)
    system = list(range(1024))
    visit(kv, system + [5000] * 300, chunk=256)
    assert visit(kv, system + [6000] * 40, chunk=256) == 1024
    used = kv.sliding_pool._num_used
    assert used <= 33 * 3 + 16  # window, two spare ones, one step


def test_where_prompts_part_is_remembered_from_the_second_on() -> None:
    """However long the ends, the third prompt finds the beginning that the second had to repeat."""
    kv = manager(4096, 2048, block_size=16, window=512)
    system = list(range(1024))
    assert visit(kv, system + [5000] * 3000, chunk=256) == 0
    assert visit(kv, system + [6000] * 3000, chunk=256) == 0
    assert visit(kv, system + [7000] * 3000, chunk=256) == 1024
    assert visit(kv, system + [8000] * 3000, chunk=256) == 1024


def test_sliding_blocks_of_ends_outlive_those_of_passed_windows() -> None:
    """A long prompt passes through a pool of three windows; the ended one's last window stays."""
    kv = manager(4096, 3 * 33 + 16, block_size=16, window=512)
    visit(kv, range(2000), chunk=256)
    visit(kv, range(10_000, 30_000), chunk=256)
    assert visit(kv, range(2000), chunk=256) == 1984


def test_the_oldest_prefix_is_forgotten_first_and_from_its_end() -> None:
    kv = manager(12, 64)
    visit(kv, range(20))
    visit(kv, range(100, 120))
    visit(kv, range(200, 213))  # 4 blocks: two never used ones, two of the oldest
    assert visit(kv, range(100, 120)) == 16
    assert visit(kv, range(20)) == 12


def test_a_preempted_request_finds_its_own_blocks_and_no_hit_is_counted() -> None:
    kv = manager()
    subject = request("a", range(30))
    compute(kv, subject)
    kv.free(subject)
    subject.num_computed_tokens = 0
    assert compute(kv, subject) == 2
    assert subject.num_cached_tokens == 0
    assert (kv.num_prefix_hits, kv.num_cached_tokens) == (0, 0)


@given(st.data())
def test_pools_take_and_keep_what_they_should(data: st.DataObject) -> None:
    """Against a model: which content is where, and that every free block can be taken."""
    pool = BlockPool(6, max_spares=1)
    held: list[int] = []
    content: dict[int, bytes] = {}
    for number in range(40):
        action = data.draw(st.sampled_from(["take", "release", "share"]))
        if action == "take" and pool.num_free:
            block = pool.take()
            assert block not in held
            assert content.pop(block, None) is None or pool.find(content.get(block, b"")) is None
            held.append(block)
            pool.register(block, bytes([number]))
            content[block] = bytes([number])
        elif action == "release" and held:
            block = held.pop(data.draw(st.integers(0, len(held) - 1)))
            pool.release(block, keep=data.draw(st.booleans()))
        elif action == "share" and content:
            block = data.draw(st.sampled_from(sorted(content)))
            pool.share(block)
            held.append(block)
        assert {block: pool.find(digest) for block, digest in content.items()} == {
            block: block for block in content
        }
        assert pool.num_free == 6 - len(set(held))
    taken = [pool.take() for _ in range(pool.num_free)]
    assert len(set(taken) | set(held)) == 6


def test_a_step_costs_no_time_by_context() -> None:
    """64 sequences at 16,384 tokens: a step's tables and growth in a few hundred microseconds."""
    kv = manager(64 * 1026, 64 * 34 + 4, block_size=16, window=512)
    requests = [request(str(i), [i] * 16_384) for i in range(64)]
    for subject in requests:
        assert kv.begin(subject, kv.find_prefix(subject))
        while subject.num_missing_tokens:
            subject.num_computed_tokens += kv.grow(subject, min(16, subject.num_missing_tokens))
            kv.advance(subject)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        for subject in requests:
            subject.token_ids.append(1)
            assert kv.grow(subject, 1) == 1
        kv.tables(requests, [subject.num_tokens for subject in requests])
        for subject in requests:
            subject.num_computed_tokens += 1
            kv.advance(subject)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.005
