"""A model for engine tests: deterministic in the states that it reads BACK through its blocks.

As in a transformer, what it stores of a token depends on all tokens before it. It stores these
states in the blocks of both pools that a batch names, and computes logits from a hash of what the
full blocks hold of the sequence and the sliding blocks of its window, so any mistake in blocks,
positions, order or prefix hits changes the tokens that come out. `oracle_logits` computes the same
from the tokens alone.
"""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nestling.engine.config import EngineConfig
from nestling.engine.progress import EngineProgress
from nestling.model.batch import ForwardBatch
from nestling.model.step import block_slots

VOCAB_SIZE = 72
NUM_TEXT_TOKENS = 64
MAX_MODEL_LEN = 128
SLIDING_WINDOW = 10
"""No multiple of a block, so that windows begin inside of blocks."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def next_state(state: int, token_id: int) -> int:
    """What is stored of a token after all tokens whose last state is given; never 0."""
    mixed = (state ^ (token_id + 1) * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 + 1) & _MASK
    return (mixed ^ mixed >> 32) or 1


def oracle_states(token_ids: Sequence[int]) -> NDArray[np.uint64]:
    """The states of all tokens."""
    states = []
    state = 0
    for token_id in token_ids:
        state = next_state(state, token_id)
        states.append(state)
    return np.array(states, np.uint64)


def logits_of(full: NDArray[np.uint64], sliding: NDArray[np.uint64]) -> NDArray[np.float32]:
    """f32 [VOCAB_SIZE] in -6..6; the ids beyond the text hold a trap that must never be sampled."""
    with np.errstate(over="ignore"):
        weights = np.arange(len(full), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        seed = (full * weights).sum(dtype=np.uint64)
        weights = np.arange(len(sliding), dtype=np.uint64) * np.uint64(2) + np.uint64(3)
        seed ^= (sliding * weights).sum(dtype=np.uint64)
        lanes = (np.arange(VOCAB_SIZE, dtype=np.uint64) + seed) * _MULTIPLIER
        lanes ^= lanes >> np.uint64(31)
        lanes *= _MULTIPLIER
    logits: NDArray[np.float32] = (
        (lanes >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    ) * 12 - 6
    logits[NUM_TEXT_TOKENS:] = 1e4
    return logits


def oracle_logits(token_ids: Sequence[int]) -> NDArray[np.float32]:
    """The logits after these tokens."""
    states = oracle_states(token_ids)
    return logits_of(states, states[-SLIDING_WINDOW:])


class FakeRunner:
    """A `ModelRunner`; `delay_s` makes steps as slow as a test needs."""

    def __init__(
        self,
        *,
        num_blocks: int,
        num_sliding_blocks: int | None = None,
        block_size: int = 4,
        delay_s: float = 0.0,
    ) -> None:
        self.vocab_size = VOCAB_SIZE
        self.num_text_tokens = NUM_TEXT_TOKENS
        self.max_model_len = MAX_MODEL_LEN
        self.sliding_window = SLIDING_WINDOW
        self.num_blocks = num_blocks
        self.num_sliding_blocks = num_sliding_blocks or num_blocks + 128
        self.block_size = block_size
        self.max_rows = 256
        self.weight_bytes_per_token = 0
        self.weight_bytes_read = 0
        self.delay_s = delay_s
        self.batches: list[ForwardBatch] = []
        self.states = np.zeros(num_blocks * block_size, np.uint64)
        self.sliding_states = np.zeros(self.num_sliding_blocks * block_size, np.uint64)

    def part_seconds(self) -> dict[str, float]:
        return {}

    def score(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
        raise AssertionError("nobody asks the fake model for scores")

    def execute(self, batch: ForwardBatch) -> NDArray[np.float32]:
        self.batches.append(batch)
        if self.delay_s:
            time.sleep(self.delay_s)
        assert batch.block_size == self.block_size
        written: list[int] = []
        rows = []
        for s, (row, end_row) in enumerate(
            zip(batch.query_start_loc, batch.query_start_loc[1:], strict=False)
        ):
            begin, end = int(batch.positions[row]), int(batch.positions[end_row - 1]) + 1
            assert (batch.positions[row:end_row] == np.arange(begin, end)).all()
            window = max(begin - (SLIDING_WINDOW - 1), 0)
            full = self._slots(batch.full_block_table[s], 0, end)
            sliding = self._slots(batch.sliding_block_table[s], window, end)
            state = int(self.states[full[begin - 1]]) if begin else 0
            assert begin == 0 or state == self.sliding_states[sliding[begin - 1 - window]]
            for at, token_id in enumerate(batch.input_ids[row:end_row].tolist(), begin):
                state = next_state(state, token_id)
                self.states[full[at]] = state
                self.sliding_states[sliding[at - window]] = state
            written += full[begin:].tolist()
            if end_row - 1 in batch.logit_rows:
                seen = sliding[max(end - SLIDING_WINDOW, 0) - window :]
                rows.append(logits_of(self.states[full], self.sliding_states[seen]))
        assert len(set(written)) == len(written)
        return np.array(rows, np.float32).reshape(len(rows), VOCAB_SIZE)

    def _slots(self, blocks: NDArray[np.int32], begin: int, end: int) -> NDArray[np.int64]:
        slots = block_slots(blocks, self.block_size, begin, end)
        assert len(slots) == end - begin
        assert (slots >= 0).all()
        return slots


class SpinningRunner(FakeRunner):
    """It never comes back from a step whose tokens include 66, a media id."""

    def execute(self, batch: ForwardBatch) -> NDArray[np.float32]:
        while 66 in batch.input_ids:
            pass
        return super().execute(batch)


def load_fake_runner(config: EngineConfig, _progress: EngineProgress | None = None) -> FakeRunner:
    """`config.model` is "fake" or "fake:<seconds a step>"."""
    delay = config.model.partition(":")[2]
    return FakeRunner(
        num_blocks=config.num_blocks or 64,
        num_sliding_blocks=config.num_sliding_blocks,
        block_size=config.block_size,
        delay_s=float(delay) if delay else 0.0,
    )
