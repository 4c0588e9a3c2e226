"""The decoder's logits are the same bits around the edge of its window, however they are come by:
in one pass, in chunks, token by token, after a prefix hit, after preemption.

All goes through the manager, so sliding blocks are given back and taken by others on the way.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.engine.batch_builder import build_batch
from nestling.engine.clients.messages import SamplingParams
from nestling.engine.config import EngineConfig
from nestling.engine.kv.manager import KVCacheManager
from nestling.engine.request import Request
from nestling.engine.runners.native import NativeRunner
from nestling.engine.runners.reference import ReferenceRunner
from nestling.engine.scheduler import Scheduler
from nestling.model.kv_cache import KVDtype
from tests.model.native_decoder import Native
from tests.model.session import make_decoder, one_shot
from tests.model.tiny import TINY, random_checkpoint, token_ids

WINDOW = 512
CONFIG = replace(TINY, sliding_window=WINDOW, max_position_embeddings=2048)
IDS = token_ids(CONFIG, 1101, seed=3)
EDGES = [511, 512, 513, 527, 528, 529, 1024, 1025]
MAX_ROWS = 600


class World:
    """A scheduler over the real decoder, with room for two windows."""

    def __init__(self, num_threads: int, kv_dtype: KVDtype = "float32") -> None:
        """The C++ core on so many threads; on none the numpy reference."""
        config = EngineConfig(
            model="-",
            engine="native" if num_threads else "reference",
            num_threads=num_threads,
            num_blocks=140,
            num_sliding_blocks=110,
            max_num_batched_tokens=MAX_ROWS,
            kv_dtype=kv_dtype,
        )
        kind = NativeRunner if num_threads else ReferenceRunner
        self.runner = kind(random_checkpoint(CONFIG), config)
        self.kv = KVCacheManager(
            num_blocks=140,
            num_sliding_blocks=110,
            block_size=16,
            sliding_window=WINDOW,
            max_rows=MAX_ROWS,
        )

    def logits(
        self, num_tokens: int, chunk: int, num_given: int
    ) -> tuple[NDArray[np.float32], int]:
        """Rows from `num_given` - 1 on, the first by a prompt, the others token by token.

        Also how many tokens of the prompt were found in the cache.
        """
        scheduler = Scheduler(self.kv, max_num_seqs=1, max_num_batched_tokens=chunk, max_waiting=1)
        request = Request(
            request_id="a",
            token_ids=list(IDS[:num_given]),
            num_prompt_tokens=num_given,
            sampling_params=SamplingParams(),
            max_tokens=1,
            seed=0,
        )
        scheduler.add(request)
        rows: list[NDArray[np.float32]] = []
        while len(rows) <= num_tokens - num_given:
            output = scheduler.schedule()
            logits = self.runner.execute(build_batch(output, self.kv))[:, : CONFIG.num_text_tokens]
            scheduler.advance(output)
            if len(logits):
                rows.append(logits[0].copy())
                request.token_ids.append(IDS[request.num_tokens])
        scheduler.remove("a")
        assert request.num_cached_tokens is not None
        assert self.kv.num_free == (140, 110)
        return np.array(rows), request.num_cached_tokens


@functools.cache
def expected() -> NDArray[np.float32]:
    """All rows of one pass over contiguous blocks."""
    decoder = make_decoder(CONFIG, native=Native(dtype="auto", max_rows=len(IDS)))
    return one_shot(decoder, IDS)[:, : CONFIG.num_text_tokens]


@pytest.fixture(scope="module")
def native() -> World:
    return World(2)


@pytest.mark.parametrize("num_tokens", EDGES)
@pytest.mark.parametrize("chunk", [16, 100, MAX_ROWS])
def test_any_chunking_gives_the_bits_of_one_pass(num_tokens: int, chunk: int) -> None:
    world = World(1)
    logits, num_cached = world.logits(num_tokens, chunk, num_tokens)
    assert num_cached == 0
    np.testing.assert_array_equal(logits[-1], expected()[num_tokens - 1])


@pytest.mark.parametrize("chunk", [16, MAX_ROWS])
def test_steps_across_the_edge_give_the_bits_of_one_pass(chunk: int) -> None:
    world = World(1)
    logits, _ = world.logits(532, chunk, 500)
    np.testing.assert_array_equal(logits, expected()[499:532])


@pytest.mark.parametrize("num_tokens", EDGES)
def test_a_prefix_hit_gives_the_bits_of_one_pass(native: World, num_tokens: int) -> None:
    native.logits(num_tokens, MAX_ROWS, num_tokens)
    logits, num_cached = native.logits(num_tokens + 20, MAX_ROWS, num_tokens)
    assert num_cached == (num_tokens - 1) // 16 * 16
    np.testing.assert_array_equal(logits, expected()[num_tokens - 1 : num_tokens + 20])


def test_a_hit_is_not_wanted_where_its_window_is_gone(native: World) -> None:
    """Hits of a shorter beginning behind a long prompt: found or computed, never wrong."""
    native.logits(1100, 256, 1100)
    for num_tokens in (20, 300, 520, 700, 1000):
        logits, _ = native.logits(num_tokens, 256, num_tokens)
        np.testing.assert_array_equal(logits[-1], expected()[num_tokens - 1])


def test_the_numpy_reference_agrees_within_rounding() -> None:
    world = World(0)
    for _ in range(2):  # computed, then found
        logits, num_cached = world.logits(516, 100, 512)
        np.testing.assert_allclose(logits, expected()[511:516], atol=1e-3, rtol=0)
    assert num_cached == 496


@pytest.mark.parametrize("num_tokens", [512, 513])
def test_float16_keys_and_values_are_bit_stable_and_near(num_tokens: int) -> None:
    runs = []
    world = World(2, "float16")
    for chunk in (MAX_ROWS, 48, MAX_ROWS):
        logits, num_cached = world.logits(num_tokens + 3, chunk, num_tokens)
        runs.append(logits)
        assert (num_cached > 0) == (len(runs) > 1)
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
    fresh, _ = World(1, "float16").logits(num_tokens + 3, 48, num_tokens)
    np.testing.assert_array_equal(runs[0], fresh)
    difference = np.abs(runs[0] - expected()[num_tokens - 1 : num_tokens + 3])
    # float16 rounds keys and values by 2^-12; a wrong slot would move logits by more than 1.
    assert 0 < difference.max() < 0.05
