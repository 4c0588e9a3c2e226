"""A token's logits are the same bits however its sequence was cut, batched, placed and threaded."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nestling.model.config import Gemma3nTextConfig
from nestling.model.decoder import Decoder
from nestling.model.kernels import NativeKernels, NumpyKernels
from tests.model.session import Session, make_decoder, one_shot
from tests.model.strategies import configs, schedules
from tests.model.tiny import TINY, token_ids


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """The tiny model on the C++ core."""
    return make_decoder(TINY)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    schedule=schedules(max_length=40),
    slot_seed=st.integers(0, 99),
    block_size=st.sampled_from([1, 3, 16]),
)
@example(schedule=([40], [[1]] * 40), slot_seed=0, block_size=4)
@example(schedule=([33, 40], [[16, 0], [0, 17], [1, 16], [16, 7]]), slot_seed=1, block_size=16)
def test_any_schedule_gives_the_bits_of_one_pass(
    decoder: Decoder,
    schedule: tuple[list[int], list[list[int]]],
    slot_seed: int,
    block_size: int,
) -> None:
    lengths, steps = schedule
    sequences = [token_ids(TINY, n, seed) for seed, n in enumerate(lengths)]
    session = Session(decoder, sequences, slot_seed, block_size=block_size)
    for counts in steps:
        session.step(counts)
    for s, ids in enumerate(sequences):
        np.testing.assert_array_equal(session.result(s), one_shot(decoder, ids))


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(config=configs(), schedule=schedules(), seed=st.integers(0, 9))
def test_any_model_and_schedule_and_thread_count(
    config: Gemma3nTextConfig, schedule: tuple[list[int], list[list[int]]], seed: int
) -> None:
    lengths, steps = schedule
    sequences = [token_ids(config, n, seed + i) for i, n in enumerate(lengths)]
    session = Session(make_decoder(config, seed, NativeKernels(2)), sequences, seed)
    for counts in steps:
        session.step(counts)
    native = make_decoder(config, seed)
    oracle = make_decoder(config, seed, NumpyKernels())
    for s, ids in enumerate(sequences):
        expected = one_shot(native, ids)
        np.testing.assert_array_equal(session.result(s), expected)
        # Sums in another order: 1e-4 at worst over 60 such models, where a wrong formula gives 1.
        np.testing.assert_allclose(expected, one_shot(oracle, ids), atol=1e-3, rtol=0)


def test_numpy_kernels_agree_stepwise_within_rounding() -> None:
    decoder = make_decoder(TINY, kernels=NumpyKernels())
    ids = token_ids(TINY, 40, 1)
    session = Session(decoder, [ids], slot_seed=2)
    for count in (1, 1, 13, 2, 16, 7):
        session.step([count])
    np.testing.assert_allclose(session.result(), one_shot(decoder, ids), atol=1e-4, rtol=0)
