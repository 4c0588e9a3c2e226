"""A token's logits are the same bits however its sequence was cut, batched, placed and threaded.

For every instruction set, every format of weights, and both of keys and values.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nestling.model.config import FULL, SLIDING
from nestling.model.kv_cache import KVDtype
from nestling.model.tensors import TensorSource
from nestling.native.gemma3n import FIRST_INT8_POW2_LAYER
from nestling.weights.packing import WeightDtype
from tests.model.native_decoder import Native, NativeDecoder
from tests.model.session import Session, one_shot
from tests.model.strategies import schedules
from tests.model.tiny import TINY, TINY_LLAMA_CPP, DictTensors, random_weights, token_ids
from tests.native.stored_models import MIXED, SIX_BITS, stored_model
from tests.native.variants import VARIANTS

WEIGHTS: dict[str, WeightDtype] = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "q4": "q4",
    "q6": "auto",
    "q8": "q8",
    "mixed": "auto",
}
KINDS = [f"{variant}-{weights}" for variant in VARIANTS for weights in WEIGHTS]
# 24 rows are the border between two ways through a product, and between two through a sparse layer.
CHUNKS = (1, 3, 4, 5, 8, 9, 12, 13, 16, 17, 23, 24, 25, 48, 49)
LENGTHS = (70, 33, 26, 1)


@cache
def tensors(weights: str) -> TensorSource:
    if weights == "mixed":
        return stored_model(TINY, 1, MIXED)
    if weights == "q6":
        return stored_model(SIX_BITS, 1, ("Q6_K",))
    return DictTensors(random_weights(TINY, 1))


@cache
def model(kind: str, how: Native = Native()) -> NativeDecoder:  # noqa: B008
    """The tiny model; one thread and no switch off unless told otherwise."""
    variant, weights = kind.split("-")
    dtype = WEIGHTS[weights]
    config = SIX_BITS if weights == "q6" else TINY
    return NativeDecoder(config, tensors(weights), replace(how, variant=variant, dtype=dtype))


@cache
def alone(kind: str, kv_dtype: KVDtype, sequence: int) -> NDArray[np.float32]:
    """[length, vocab_size]: a sequence in one pass, all rows with logits, one thread."""
    decoder = model(kind, Native(kv_dtype=kv_dtype))
    return one_shot(decoder, token_ids(TINY, LENGTHS[sequence], sequence))


@pytest.mark.parametrize("kind", KINDS)
def test_any_chunks(kind: str) -> None:
    expected = alone(kind, "float32", 0)
    assert np.ptp(expected, axis=1).min() > 1
    for chunk in CHUNKS:
        session = Session(model(kind), [token_ids(TINY, 70, 0)], slot_seed=chunk)
        while session.num_computed[0] < 70:
            session.step([min(chunk, 70 - session.num_computed[0])])
        np.testing.assert_array_equal(session.result(), expected, err_msg=f"chunks of {chunk}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_chunks_through_coarse_layers(variant: str) -> None:
    """Which the tiny model of ten layers has none of."""
    source = DictTensors(random_weights(TINY_LLAMA_CPP, 1))
    decoder = NativeDecoder(TINY_LLAMA_CPP, source, Native(variant=variant, dtype="q4"))
    assert TINY_LLAMA_CPP.num_hidden_layers > FIRST_INT8_POW2_LAYER
    ids = token_ids(TINY_LLAMA_CPP, 30, 0)
    expected = one_shot(decoder, ids)
    for chunk in (1, 5, 12, 29):
        session = Session(decoder, [ids], slot_seed=chunk)
        while session.num_computed[0] < len(ids):
            session.step([min(chunk, len(ids) - session.num_computed[0])])
        np.testing.assert_array_equal(session.result(), expected, err_msg=f"chunks of {chunk}")


@settings(max_examples=6, derandomize=True)
@given(
    schedule=schedules(max_length=60),
    order=st.permutations(range(3)),
    slot_seed=st.integers(0, 99),
    block_size=st.sampled_from([16, 32]),
    num_threads=st.sampled_from([1, 2, 5]),
    kv_dtype=st.sampled_from(["float16", "float32"]),
    prefill_skip=st.booleans(),
    fused_passes=st.booleans(),
    wanted_logits_only=st.booleans(),
    logit_seed=st.integers(0, 99),
)
@example(  # 60 rows, of which 2 go on
    schedule=([60], [[60]]),
    order=[0, 1, 2],
    slot_seed=0,
    block_size=16,
    num_threads=5,
    kv_dtype="float16",
    prefill_skip=True,
    fused_passes=True,
    wanted_logits_only=True,
    logit_seed=1,
)
@pytest.mark.parametrize("kind", KINDS)
def test_any_batch(
    kind: str,
    schedule: tuple[list[int], list[list[int]]],
    order: list[int],
    slot_seed: int,
    block_size: int,
    num_threads: int,
    kv_dtype: KVDtype,
    prefill_skip: bool,
    fused_passes: bool,
    wanted_logits_only: bool,
    logit_seed: int,
) -> None:
    """Any mixture of chunks of up to three sequences, in any order, of any rows' logits."""
    lengths, steps = schedule
    order = [s for s in order if s < len(lengths)]
    how = Native(
        kv_dtype=kv_dtype,
        num_threads=num_threads,
        prefill_skip=prefill_skip,
        fused_passes=fused_passes,
        wanted_logits_only=wanted_logits_only,
        max_rows=180,
    )
    decoder = model(kind, how)
    wholes = [token_ids(TINY, LENGTHS[0], 0)[: lengths[s]] for s in order]
    session = Session(decoder, wholes, slot_seed, block_size=block_size)
    rng = np.random.default_rng(logit_seed)
    num_compared = 0
    for counts in steps:
        counts = [counts[s] for s in order]
        batch = session.batch(counts)
        share = rng.choice([0.05, 0.5, 1.0])
        rows = np.flatnonzero(rng.random(len(batch.input_ids)) < share).astype(np.int32)
        logits = decoder.forward(replace(batch, logit_rows=rows), session.cache)
        expected = alone(kind, kv_dtype, 0)[batch.positions[rows]]
        np.testing.assert_array_equal(logits, expected)
        num_compared += len(rows)
        session.num_computed = [n + c for n, c in zip(session.num_computed, counts, strict=True)]
    assert num_compared or sum(lengths) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_different_sequences_in_one_batch(kind: str) -> None:
    decoder = model(kind, Native(num_threads=2, max_rows=256, kv_dtype="float16"))
    session = Session(decoder, [token_ids(TINY, n, s) for s, n in enumerate(LENGTHS)], slot_seed=3)
    session.step([40, 33, 1, 0])
    session.step([1, 0, 24, 1])
    session.step([29, 0, 1, 0])
    for s in range(len(LENGTHS)):
        np.testing.assert_array_equal(session.result(s), alone(kind, "float16", s))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("weights", ["float32", "mixed"])
def test_sparse_feed_forward_by_any_number_of_rows(variant: str, weights: str) -> None:
    """All widths of a step around the switch-over, each row at another place."""
    kind = f"{variant}-{weights}"
    ids = token_ids(TINY, 70, 0)
    for num_rows in (*range(20, 30), 47, 48, 49, 70):
        logits = one_shot(model(kind), ids[:num_rows])
        np.testing.assert_array_equal(logits, alone(kind, "float32", 0)[:num_rows])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 512])
def test_around_the_edge_of_the_window(variant: str, window: int) -> None:
    """Stepwise with only as many sliding blocks as a window takes, so old ones are overwritten."""
    config = replace(TINY, sliding_window=window, max_position_embeddings=640)
    decoder = NativeDecoder(
        config, tensors("float32"), Native(variant=variant, max_rows=560, num_threads=2)
    )
    num_tokens = window + 40
    ids = token_ids(config, num_tokens, 3)
    expected = one_shot(decoder, ids)
    num_blocks = -(-num_tokens // 16)
    in_window = -(-(window - 1) // 16) + 1
    start = max(window - 10, 1) // 16 * 16  # whole blocks, then token by token
    cache = decoder.new_cache(num_blocks, in_window + 1, 16)
    table = np.arange(num_blocks, dtype=np.int32)[None]
    ring = table % (in_window + 1)
    session = Session(decoder, [ids])
    session.full, session.sliding = table, ring
    session.cache = cache
    for begin in range(0, start, 16):
        session.step([16])
        assert session.num_computed == [begin + 16]
    while session.num_computed[0] < num_tokens:
        session.step([1])
    np.testing.assert_array_equal(session.result(), expected)


@pytest.mark.parametrize("layer_type", [FULL, SLIDING])
@pytest.mark.parametrize("num_tokens", [15, 16, 17, 33])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_row_sees(variant: str, num_tokens: int, layer_type: str) -> None:
    """One layer, so that nothing further back comes through another layer's cache."""
    config = replace(
        TINY,
        num_hidden_layers=1,
        intermediate_size=(64,),
        layer_types=(layer_type,),
        num_kv_shared_layers=0,
        activation_sparsity_pattern=(0.0,),
    )
    decoder = NativeDecoder(config, DictTensors(random_weights(config, 1)), Native(variant=variant))
    ids = token_ids(config, num_tokens, 1)
    last = one_shot(decoder, ids)[-1]
    first_seen = max(num_tokens - config.sliding_window, 0) if layer_type == SLIDING else 0
    for position in range(num_tokens):
        changed = [*ids]
        changed[position] = (ids[position] + 1) % config.vocab_size
        is_same = np.array_equal(one_shot(decoder, changed)[-1], last)
        assert is_same == (position < first_seen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_of_another_sequence_serves_as_ones_own(kind: str) -> None:
    """As after a prefix hit: the first two blocks were computed by another, in chunks of 5."""
    ids = token_ids(TINY, 70, 0)
    session = Session(model(kind), [ids, ids], slot_seed=4)
    for _ in range(8):
        session.step([5, 0])
    for table in (session.full, session.sliding):
        table[1, :2] = table[0, :2]
    session.num_computed[1] = 32
    session.step([0, 38])
    np.testing.assert_array_equal(session.result(1), alone(kind, "float32", 0)[32:])


@pytest.mark.parametrize("kind", KINDS)
def test_computed_again_after_its_blocks_were_taken(kind: str) -> None:
    """As after a preemption: the same tokens in one chunk, in blocks that others have used."""
    ids = token_ids(TINY, 33, 1)
    session = Session(model(kind), [ids], slot_seed=5)
    for count in (20, 1, 1, 1):
        session.step([count])
    other = Session(model(kind), [token_ids(TINY, 33, 9)], slot_seed=5)
    other.cache = session.cache
    other.step([33])
    session.num_computed, session.logits = [0], [[]]
    session.step([23])
    for _ in range(10):
        session.step([1])
    np.testing.assert_array_equal(session.result(), alone(kind, "float32", 1))


def test_only_the_slots_of_the_batch_are_written() -> None:
    """Two neighbours' rows survive a step between their own."""
    ids = [token_ids(TINY, 48, s) for s in range(3)]
    decoder = model(f"{VARIANTS[-1]}-q4")
    session = Session(decoder, ids, slot_seed=6)
    session.step([20, 17, 30])
    for _ in range(8):
        session.step([0, 1, 0])
    session.step([28, 23, 18])
    for s in range(3):
        np.testing.assert_array_equal(session.result(s), one_shot(decoder, ids[s]))
