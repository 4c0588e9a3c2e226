"""Tells how many blocks the two pools of the KV cache get."""

from dataclasses import dataclass

from nestling.engine.config import EngineConfig
from nestling.errors import SettingsError

SLIDING_SHARE = 0.6
"""Of the KV cache's memory, for windows: 64 of E4B in float16 take 1.1 of 2 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """Tells what the blocks of a model cost, and what a sequence and a step need."""

    full_bytes_per_token: int
    """Of all full-attention layers that own keys and values."""
    sliding_bytes_per_token: int
    """Of all sliding layers that own keys and values."""
    sliding_window: int
    max_model_len: int
    max_rows: int
    """Tokens that one step computes at most."""


def blocks_of_window(sliding_window: int, block_size: int) -> int:
    """The most blocks that a token and the `sliding_window - 1` before it touch."""
    return -(-(sliding_window - 1) // block_size) + 1


def sliding_blocks_of_sequence(sliding_window: int, block_size: int, num_tokens: int) -> int:
    """The most sliding blocks that a sequence of that length takes in a step, its chunk apart.

    A chunk of n tokens takes at most n / block_size, rounded up, and the one that is added here.
    """
    return min(blocks_of_window(sliding_window, block_size), -(-num_tokens // block_size)) + 1


def num_cache_blocks(config: EngineConfig, shape: CacheShape) -> tuple[int, int]:
    """Blocks of the full and of the sliding pool.

    A number that is set stands. Else the sliding pool gets what `max_num_seqs` sequences hold at
    once (their windows, and the rows of one step), but at most `SLIDING_SHARE` of `kv_cache_bytes`;
    the full pool gets the other bytes, for at most `max_num_seqs` whole contexts; and what is left
    then goes to the sliding pool for cached prefixes, for as many tokens at most as the full pool
    has. However few the bytes, one whole context fits. Raises `SettingsError` if
    `num_sliding_blocks` is set to less than one window takes.
    """
    size = config.block_size
    per_context = -(-shape.max_model_len // size)
    per_window = blocks_of_window(shape.sliding_window, size)
    per_seq = sliding_blocks_of_sequence(shape.sliding_window, size, shape.max_model_len)
    per_step = -(-shape.max_rows // size)
    needed = config.max_num_seqs * per_seq + per_step
    full_bytes = shape.full_bytes_per_token * size
    sliding_bytes = shape.sliding_bytes_per_token * size
    budget = config.kv_cache_bytes

    share = int(SLIDING_SHARE * budget)
    num_sliding = max(per_seq + per_step, min(needed, _affordable(share, sliding_bytes, needed)))
    if config.num_sliding_blocks is not None:
        num_sliding = config.num_sliding_blocks
    wanted = config.max_num_seqs * per_context
    left = budget - num_sliding * sliding_bytes
    num_full = max(per_context, min(wanted, _affordable(left, full_bytes, wanted)))
    if config.num_blocks is not None:
        num_full = config.num_blocks
    if config.num_sliding_blocks is None:
        left = budget - num_full * full_bytes
        num_sliding = max(num_sliding, min(num_full, _affordable(left, sliding_bytes, num_full)))
    if num_sliding < min(per_window, num_full):
        raise SettingsError(
            f"num_sliding_blocks: expected at least {min(per_window, num_full)}, the blocks of one "
            f"window of {shape.sliding_window} tokens, got {num_sliding}",
            param="num_sliding_blocks",
        )
    return num_full, num_sliding


def _affordable(num_bytes: int, bytes_per_block: int, wanted: int) -> int:
    return num_bytes // bytes_per_block if bytes_per_block else wanted
