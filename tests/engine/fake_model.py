"""A model for engine tests: deterministic in the tokens that it reads BACK through its slots.

It stores token ids (with their positions) in the slots that a batch names and computes logits from
a hash of what the context slots hold, so any mistake in blocks, slots, positions or order changes
the tokens that come out. `oracle_logits` computes the same from the tokens alone.
"""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nestling.engine.config import EngineConfig
from nestling.model.batch import ForwardBatch

VOCAB_SIZE = 72
NUM_TEXT_TOKENS = 64
MAX_MODEL_LEN = 128
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def oracle_logits(token_ids: Sequence[int]) -> NDArray[np.float32]:
    """f32 [VOCAB_SIZE] in -6..6; the ids beyond the text hold a trap that must never be sampled."""
    ids = np.asarray(token_ids, np.uint64)
    positions = np.arange(len(ids), dtype=np.uint64)
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        mixed = (ids + np.uint64(1)) * _MULTIPLIER ^ (positions + np.uint64(1)) * np.uint64(40503)
        state = np.bitwise_xor.reduce(mixed * _MULTIPLIER ^ (mixed >> np.uint64(29)))
        lanes = (np.arange(VOCAB_SIZE, dtype=np.uint64) + state) * _MULTIPLIER
        lanes ^= lanes >> np.uint64(31)
        lanes *= _MULTIPLIER
    logits: NDArray[np.float32] = (
        (lanes >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    ) * 12 - 6
    logits[NUM_TEXT_TOKENS:] = 1e4
    return logits


class FakeRunner:
    """A `ModelRunner`; `delay_s` makes steps as slow as a test needs."""

    def __init__(self, *, num_blocks: int, block_size: int = 4, delay_s: float = 0.0) -> None:
        self.vocab_size = VOCAB_SIZE
        self.num_text_tokens = NUM_TEXT_TOKENS
        self.max_model_len = MAX_MODEL_LEN
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.rows_per_step = 256
        self.delay_s = delay_s
        self.batches: list[ForwardBatch] = []
        self._tokens = np.full(num_blocks * block_size, -1, np.int64)
        self._positions = np.full(num_blocks * block_size, -1, np.int64)

    def execute(self, batch: ForwardBatch) -> NDArray[np.float32]:
        self.batches.append(batch)
        if self.delay_s:
            time.sleep(self.delay_s)
        assert len(np.unique(batch.slot_mapping)) == len(batch.slot_mapping)
        self._tokens[batch.slot_mapping] = batch.input_ids
        self._positions[batch.slot_mapping] = batch.positions
        rows = []
        for s, slots in enumerate(batch.context_slots):
            begin, end = batch.query_start_loc[s : s + 2]
            assert (batch.slot_mapping[begin:end] == slots[len(slots) - (end - begin) :]).all()
            assert (self._positions[slots] == np.arange(len(slots))).all()
            if end - 1 in batch.logit_rows:
                rows.append(oracle_logits(self._tokens[slots].tolist()))
        return np.array(rows, np.float32).reshape(len(rows), VOCAB_SIZE)


def load_fake_runner(config: EngineConfig) -> FakeRunner:
    """`config.model` is "fake" or "fake:<seconds a step>"."""
    delay = config.model.partition(":")[2]
    return FakeRunner(
        num_blocks=config.num_blocks or 64,
        block_size=config.block_size,
        delay_s=float(delay) if delay else 0.0,
    )
