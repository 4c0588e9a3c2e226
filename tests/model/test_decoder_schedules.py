"""The numpy reference gives the same logits, within rounding, however a sequence is cut.

To the bit it is the C++ core that does: tests/native/test_rows.py.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.model.session import NumpyDecoder, Session, make_decoder, one_shot
from tests.model.strategies import schedules
from tests.model.tiny import TINY, token_ids


@pytest.fixture(scope="module")
def decoder() -> NumpyDecoder:
    """The tiny model."""
    decoder: NumpyDecoder = make_decoder(TINY)
    return decoder


@settings(max_examples=15, derandomize=True)
@given(
    schedule=schedules(max_length=40),
    slot_seed=st.integers(0, 99),
    block_size=st.sampled_from([1, 3, 16]),
)
@example(schedule=([40], [[1]] * 40), slot_seed=0, block_size=4)
@example(schedule=([33, 40], [[16, 0], [0, 17], [1, 16], [16, 7]]), slot_seed=1, block_size=16)
def test_any_schedule_gives_the_logits_of_one_pass(
    decoder: NumpyDecoder,
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
        expected = one_shot(decoder, ids)
        # BLAS sums in another order for other shapes; a wrong slot moves logits by more than 1.
        np.testing.assert_allclose(session.result(s), expected, atol=1e-4, rtol=0)
