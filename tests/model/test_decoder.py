"""The reference decoder's own rules: what a row sees and changes, what may be left out.

The C++ core's: tests/native.
"""

from dataclasses import replace

import numpy as np
import pytest

from nestling.model.config import FULL, SLIDING
from nestling.model.kv_cache import KVCache, owning_layer_types
from tests.model.session import Array, NumpyDecoder, Session, make_decoder, one_shot
from tests.model.tiny import TINY, DictTensors, random_weights, token_ids


@pytest.fixture(scope="module")
def decoder() -> NumpyDecoder:
    """The tiny model."""
    decoder: NumpyDecoder = make_decoder(TINY)
    return decoder


def assert_near(ours: Array, theirs: Array) -> None:
    """Within rounding: BLAS sums in another order where there are fewer rows."""
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", [[], [0], [39], [0, 7, 39], list(range(40))])
def test_rows_without_logits_change_nothing_but_the_work(
    decoder: NumpyDecoder, rows: list[int]
) -> None:
    ids = token_ids(TINY, 40, 1)
    full = Session(decoder, [ids])
    full.step([40])
    partial = Session(decoder, [ids])
    batch = replace(partial.batch([40]), logit_rows=np.array(rows, np.int32))
    logits = decoder.forward(batch, partial.cache)
    assert logits.shape == (len(rows), TINY.vocab_size)
    assert_near(logits, full.result()[rows])
    for ours, theirs in zip(partial.cache.keys, full.cache.keys, strict=True):
        assert_near(ours, theirs)
    for ours, theirs in zip(partial.cache.values, full.cache.values, strict=True):
        assert_near(ours, theirs)


def test_rows_without_logits_stop_at_the_last_layer_that_owns_keys(decoder: NumpyDecoder) -> None:
    seen: list[tuple[int, int]] = []
    session = Session(decoder, [token_ids(TINY, 8, 1)])
    batch = replace(session.batch([8]), logit_rows=np.array([7], np.int32))
    decoder.forward(batch, session.cache, lambda i, streams: seen.append((i, len(streams))))
    last_owner = TINY.first_kv_shared_layer - 1
    assert seen == [(i, 8 if i < last_owner else 1) for i in range(TINY.num_hidden_layers)]


def test_only_the_named_slots_are_written(decoder: NumpyDecoder) -> None:
    ids = token_ids(TINY, 6, 1)
    cache = KVCache.allocate(TINY, 20, 30)
    for array in (*cache.keys, *cache.values):
        array.fill(np.float32(7.5))
    session = Session(decoder, [ids])
    slots = {FULL: [3, 17, 4, 0, 11, 9], SLIDING: [29, 1, 2, 8, 7, 20]}
    batch = replace(
        session.batch([6]),
        full_block_table=np.array([slots[FULL]], np.int32),
        sliding_block_table=np.array([slots[SLIDING]], np.int32),
    )
    assert_near(decoder.forward(batch, cache), one_shot(decoder, ids))
    layer_types = owning_layer_types(TINY)
    for array, layer_type in zip((*cache.keys, *cache.values), layer_types * 2, strict=True):
        others = np.setdiff1d(np.arange(len(array)), slots[layer_type])
        assert (array[others] == 7.5).all()
        assert (array[slots[layer_type]] != 7.5).all()


@pytest.mark.parametrize("num_tokens", [15, 16, 17, 33])
def test_a_sliding_layer_sees_the_window_and_not_one_more(num_tokens: int) -> None:
    """One layer, so that nothing further back comes through another layer's cache."""
    config = replace(
        TINY,
        num_hidden_layers=1,
        intermediate_size=(64,),
        layer_types=(SLIDING,),
        num_kv_shared_layers=0,
        activation_sparsity_pattern=(0.0,),
    )
    decoder = make_decoder(config)
    ids = token_ids(config, num_tokens, 1)
    last = one_shot(decoder, ids)[-1]
    first_seen = max(num_tokens - config.sliding_window, 0)
    for position in range(num_tokens):
        changed = [*ids]
        changed[position] = (ids[position] + 1) % config.vocab_size
        is_same = np.abs(one_shot(decoder, changed)[-1] - last).max() < 1e-4
        assert is_same == (position < first_seen)


def test_a_full_layer_sees_everything_before_it_and_nothing_after(decoder: NumpyDecoder) -> None:
    ids = token_ids(TINY, 40, 1)
    logits = one_shot(decoder, ids)
    changed = [*ids]
    changed[20] = (ids[20] + 1) % TINY.vocab_size
    other = one_shot(decoder, changed)
    assert_near(other[:20], logits[:20])
    assert np.abs(other - logits)[20:].max(axis=1).min() > 1e-2


def test_ids_without_a_per_layer_row_use_row_zero() -> None:
    config = TINY
    weights = random_weights(config, 1)
    beyond = config.vocab_size_per_layer_input + 5
    # Give id 0 the embedding of `beyond`: then only the per-layer lookup could tell them apart.
    weights["embed_tokens.weight"][0] = weights["embed_tokens.weight"][beyond]
    decoder = make_decoder(config, weights=weights)
    assert_near(one_shot(decoder, [beyond, 3]), one_shot(decoder, [0, 3]))


def test_shared_layers_read_the_last_owner_of_their_type() -> None:
    """Changing the value projection of the last sliding owner moves a model whose rest is full."""
    types = (SLIDING, SLIDING, FULL, SLIDING, FULL)
    config = replace(
        TINY,
        num_hidden_layers=5,
        intermediate_size=(64,) * 5,
        layer_types=types,
        num_kv_shared_layers=2,
        activation_sparsity_pattern=(0.0,) * 5,
    )
    assert [config.kv_source_layer(i) for i in range(5)] == [0, 1, 2, 1, 2]
    ids = token_ids(config, 24, 1)
    decoder = make_decoder(config)
    session = Session(decoder, [ids])
    session.step([23])
    reference = decoder.forward(session.batch([1]), session.cache)
    for source in (1, 2):
        other = Session(decoder, [ids])
        other.step([23])
        other.cache.values[source][:23] *= 2
        assert np.abs(decoder.forward(other.batch([1]), other.cache) - reference).max() > 1e-2


def test_positions_are_arguments(decoder: NumpyDecoder) -> None:
    """RoPE is relative: all positions moved by the same amount give nearly the same logits."""
    ids = token_ids(TINY, 12, 1)
    session = Session(decoder, [ids])
    batch = session.batch([12])
    logits = decoder.forward(batch, session.cache)
    before = np.zeros((1, 100), np.int32)
    moved = replace(
        batch,
        positions=batch.positions + 100,
        full_block_table=np.hstack([before, batch.full_block_table]),
        sliding_block_table=np.hstack([before, batch.sliding_block_table]),
    )
    window_only = replace(TINY, layer_types=(SLIDING,) * 10, sliding_window=1)
    decoder = make_decoder(window_only)
    # With a window of one, a row sees itself alone, so that nothing but rounding may change.
    alone = decoder.forward(batch, session.cache)
    np.testing.assert_allclose(decoder.forward(moved, session.cache), alone, atol=1e-4, rtol=0)
    assert np.abs(alone - logits).max() > 0.1


def test_soft_cap_bounds_the_logits_and_can_be_absent() -> None:
    ids = token_ids(TINY, 5, 1)
    weights = random_weights(TINY, 1)
    uncapped = one_shot(
        make_decoder(replace(TINY, final_logit_softcapping=None), weights=weights), ids
    )
    capped = one_shot(
        make_decoder(replace(TINY, final_logit_softcapping=0.5), weights=weights), ids
    )
    assert np.abs(uncapped).max() > 2
    np.testing.assert_allclose(capped, 0.5 * np.tanh(uncapped / 0.5), rtol=1e-5, atol=1e-6)


def test_embeddings_are_read_by_rows_and_never_whole_but_for_the_head() -> None:
    asked = []

    class Recording(DictTensors):
        def tensor(self, name: str) -> Array:
            asked.append(name)
            return super().tensor(name)

    decoder = make_decoder(TINY, source=Recording(random_weights(TINY, 1)))
    one_shot(decoder, token_ids(TINY, 5, 1))
    assert "embed_tokens_per_layer.weight" not in asked
    assert asked.count("embed_tokens.weight") == 1
    assert len(asked) == len(set(asked))
