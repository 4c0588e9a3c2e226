"""The rule by which memory becomes blocks, and what it gives for the real models."""

import pytest

from nestling.engine.config import EngineConfig
from nestling.engine.kv.sizes import CacheShape, blocks_of_window, num_cache_blocks
from nestling.errors import SettingsError

GIB = 1 << 30
E4B = CacheShape(
    full_bytes_per_token=8 << 10,
    sliding_bytes_per_token=32 << 10,
    sliding_window=512,
    max_model_len=32_768,
    max_rows=512,
)
FULL_BLOCK = 16 * E4B.full_bytes_per_token
SLIDING_BLOCK = 16 * E4B.sliding_bytes_per_token


def blocks(**settings: int) -> tuple[int, int]:
    return num_cache_blocks(EngineConfig(model="-", **settings), E4B)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "size", "num_blocks"),
    [(1, 4, 1), (2, 4, 2), (5, 4, 2), (6, 4, 3), (512, 16, 33), (10, 4, 4)],
)
def test_blocks_of_a_window_at_its_worst_place(window: int, size: int, num_blocks: int) -> None:
    assert blocks_of_window(window, size) == num_blocks
    touched = [
        position // size - max(position - (window - 1), 0) // size + 1 for position in range(2000)
    ]
    assert max(touched) == num_blocks


def test_sequences_get_their_windows_and_the_rest_is_contexts() -> None:
    num_full, num_sliding = blocks(max_num_seqs=8)
    assert num_sliding == 8 * 34 + 32
    assert num_full == (2 * GIB - num_sliding * SLIDING_BLOCK) // FULL_BLOCK


def test_windows_take_a_share_of_the_bytes_at_most() -> None:
    num_full, num_sliding = blocks(max_num_seqs=64)
    assert num_sliding == 64 * 34 + 32  # all 64 windows of the default
    assert num_full * 16 > 100_000
    num_full, num_sliding = blocks(max_num_seqs=64, kv_cache_bytes=GIB)
    assert num_sliding == 6 * GIB // 10 // SLIDING_BLOCK
    assert num_full == (GIB - num_sliding * SLIDING_BLOCK) // FULL_BLOCK


def test_one_context_fits_however_few_the_bytes() -> None:
    assert blocks(kv_cache_bytes=1, max_num_seqs=4) == (2048, 34 + 32)
    """32,768 tokens: 8 KiB each, and within 20 MiB of window (and 16 MiB for the step)."""
    assert 2048 * FULL_BLOCK == 32_768 * (8 << 10)
    assert 33 * SLIDING_BLOCK < 20 << 20


def test_what_contexts_leave_goes_to_cached_windows() -> None:
    num_full, num_sliding = blocks(max_num_seqs=1, kv_cache_bytes=GIB)
    assert num_full == 2048
    assert num_sliding == (GIB - 2048 * FULL_BLOCK) // SLIDING_BLOCK
    assert blocks(max_num_seqs=1, kv_cache_bytes=100 * GIB) == (2048, 2048)


def test_numbers_that_are_set_stand() -> None:
    assert blocks(num_blocks=100, num_sliding_blocks=50) == (100, 50)
    assert blocks(num_blocks=5, max_num_seqs=4)[0] == 5


def test_less_than_a_window_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"num_sliding_blocks: expected at least 33.*got 32"):
        blocks(num_sliding_blocks=32)
    assert blocks(num_blocks=4, num_sliding_blocks=4) == (4, 4)  # no sequence is longer


def test_a_model_without_one_kind_of_layers_has_blocks_all_the_same() -> None:
    shape = CacheShape(
        full_bytes_per_token=0,
        sliding_bytes_per_token=64,
        sliding_window=8,
        max_model_len=64,
        max_rows=16,
    )
    num_full, num_sliding = num_cache_blocks(EngineConfig(model="-", max_num_seqs=2), shape)
    assert num_full == 2 * 4
    assert num_sliding >= 2 * 3 + 1
