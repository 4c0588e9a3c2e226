"""Choosing a token from logits, and log-probabilities of the likeliest tokens.

Steps 6 to 12 of docs/model.md, "Sampling", over the whole vocabulary by partial selection; the
caller has applied bias and penalties. Stateless: the random number is an argument.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestling.native import _core


class TopLogprobs(NamedTuple):
    """The likeliest tokens, best first; `logits[t] - logsumexp` is the logprob of any other."""

    logsumexp: float
    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]


def sample(
    logits: NDArray[np.float32],
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    top_a: float,
    min_p: float,
    uniform: float,
) -> int:
    """Return the id drawn from `logits` [vocab_size] by `uniform` in [0, 1).

    Filters act in this order, each on what the one before it left: temperature (0: the best id, and
    nothing else counts); top_k keeps exactly k; top_p the fewest best whose mass reaches it; top_a
    drops p < top_a * p_max**2; min_p drops p < min_p * p_max. Neutral values 1, 0, 1, 0, 0 switch
    them off. Among equal logits lower ids are better. The draw inverts the cumulative distribution
    of the survivors in ascending order of id; a token with p < e**-87 * p_max is never drawn.

    Raises ValueError on NaN, +inf, no finite logit, or a number out of its range; TypeError on
    another dtype.
    """
    return _core.sample(
        logits,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        top_a=top_a,
        min_p=min_p,
        uniform=uniform,
    )


def top_logprobs(logits: NDArray[np.float32], count: int) -> TopLogprobs:
    """Return the `count` likeliest tokens of `logits` [vocab_size] and their log-probabilities.

    Lower ids come first among equals; fewer than `count` if fewer logits are finite. Raises as
    `sample` does.
    """
    return TopLogprobs(*_core.top_logprobs(logits, count))
