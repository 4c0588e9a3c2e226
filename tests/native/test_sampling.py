"""The native sampler against an oracle that sorts, and its draws against exact distributions."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nestling.native.sampling import sample, top_logprobs

NEUTRAL: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "top_a": 0.0, "min_p": 0.0}
VOCAB_SIZE = 262_144


def draw(logits: NDArray[np.float32], uniform: float, **filters: float) -> int:
    return sample(logits, uniform=uniform, **{**NEUTRAL, **filters})


def distribution(logits: NDArray[np.float32], **filters: float) -> NDArray[np.float64]:
    """[vocab_size]: the exact probabilities, filter by filter over a full sort, in float64."""
    return oracle(logits, **filters)[0]


def oracle(logits: NDArray[np.float32], **filters: float) -> tuple[NDArray[np.float64], float]:
    """The exact probabilities, and how far from any token the nearest bound of a filter lies."""
    f = {**NEUTRAL, **filters}
    order = np.lexsort((np.arange(len(logits)), -logits.astype(np.float64)))
    scaled = logits[order].astype(np.float64) / f["temperature"]
    if 0 < f["top_k"] < len(logits):
        scaled[int(f["top_k"]) :] = -np.inf
    p = np.exp(scaled - scaled[0])
    p /= p.sum()
    margin = np.inf
    if f["top_p"] < 1:
        before = np.cumsum(p) - p
        margin = np.abs(before[p > 0] - f["top_p"]).min()
        p[before >= f["top_p"]] = 0
        p /= p.sum()
    for least_per_best in (f["top_a"] * p[0], f["min_p"]):
        ratio = p / p[0]
        margin = min(margin, np.abs(ratio[p > 0] - least_per_best).min())
        p[ratio < least_per_best] = 0
        p /= p.sum()
    result = np.zeros(len(logits))
    result[order] = p
    return result, float(margin)


def all_draws(logits: NDArray[np.float32], p: NDArray[np.float64], **filters: float) -> list[int]:
    """What the sampler draws at the middle of each likely token's share of [0, 1)."""
    cumulative = np.cumsum(p)
    middles = cumulative - p / 2
    return [draw(logits, float(middles[t]), **filters) for t in np.flatnonzero(p > 1e-6)]


tied_logits = st.lists(st.integers(-24, 24), min_size=1, max_size=60).map(
    lambda xs: np.array(xs, np.float32) / 4
)


@settings(max_examples=200)
@given(
    logits=tied_logits,
    temperature=st.sampled_from([0.25, 0.7, 1.0, 2.0]),
    top_k=st.integers(0, 61),
    top_p=st.sampled_from([1.0, 0.01, 0.31, 0.9, 0.987]),
    top_a=st.sampled_from([0.0, 0.03, 0.4, 1.0]),
    min_p=st.sampled_from([0.0, 0.0203, 0.17, 0.913]),
)
def test_every_survivor_has_its_share_and_nothing_else(
    logits: NDArray[np.float32], **filters: float
) -> None:
    p, margin = oracle(logits, **filters)
    assume(margin > 1e-5)
    assert all_draws(logits, p, **filters) == [int(t) for t in np.flatnonzero(p > 1e-6)]


@pytest.mark.parametrize("seed", range(3))
def test_whole_vocabulary_agrees_with_a_full_sort(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=VOCAB_SIZE) * 3).astype(np.float32)
    for filters in (
        {"top_k": 64},
        {"top_k": 200_000, "top_p": 0.99},
        {"top_p": 0.95, "temperature": 0.7},
        {"top_p": 0.99, "top_a": 0.2, "min_p": 0.01},
        {"temperature": 2.0},
    ):
        p = distribution(logits, **filters)
        cumulative = np.cumsum(p)
        for uniform in rng.random(40):
            token = draw(logits, float(uniform), **filters)
            assert p[token] > 0
            assert cumulative[token] - p[token] - 1e-6 <= uniform <= cumulative[token] + 1e-6


@settings(max_examples=200)
@given(
    logits=tied_logits,
    negated=st.integers(0, 2**60 - 1),
    top_k=st.integers(0, 61),
    top_p=st.sampled_from([1.0, 0.01, 0.5, 0.987]),
    min_p=st.sampled_from([0.0, 0.17]),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_zeros_of_both_signs_are_equal(
    logits: NDArray[np.float32], negated: int, uniform: float, **filters: float
) -> None:
    signed = logits.copy()
    for i in np.flatnonzero(logits == 0):
        signed[i] = -0.0 if negated >> int(i) & 1 else 0.0
    assert draw(signed, uniform, **filters) == draw(logits, uniform, **filters)
    assert top_logprobs(signed, 20).ids.tolist() == top_logprobs(logits, 20).ids.tolist()


FLAT = {
    "equal": np.zeros(VOCAB_SIZE, np.float32),
    "nearly": (5 + np.random.default_rng(1).normal(size=VOCAB_SIZE) * 1e-3).astype(np.float32),
    "two values": np.where(np.arange(VOCAB_SIZE) % 2, 5.001, 5).astype(np.float32),
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_vocabulary_keeps_the_right_number(name: str) -> None:
    logits = FLAT[name]
    p = distribution(logits, top_p=0.99)
    kept = np.flatnonzero(p)
    assert draw(logits, 0.0, top_p=0.99) == kept[0]
    assert abs(draw(logits, 1 - 2**-53, top_p=0.99) - kept[-1]) <= 2
    survivors = np.flatnonzero(distribution(logits, top_k=1000))
    assert len(survivors) == 1000
    assert draw(logits, 0.0, top_k=1000) == survivors[0]
    assert draw(logits, 1 - 2**-53, top_k=1000) == survivors[-1]


def sampled_tokens(num_samples: int) -> NDArray[np.int64]:
    """Those at which the sampler's first samples look, as `Selection::take_sample` does."""
    stretch = VOCAB_SIZE // 2048
    tokens = []
    for seed in range(num_samples):
        random = seed
        for i in range(2048):
            random = (random * 1664525 + 1013904223) % 2**32
            tokens.append(i * stretch + (random * stretch >> 32))
    return np.array(tokens)


def uneven_vocabularies() -> dict[str, NDArray[np.float32]]:
    """What a sample of the vocabulary tells badly: rare heavy tokens, outliers, ties, a pattern."""
    rng = np.random.default_rng(2)
    normal = rng.normal(size=VOCAB_SIZE)
    peaked = normal * 2 - 5
    peaked[rng.integers(0, VOCAB_SIZE, 30)] += 20
    outlier = FLAT["nearly"].copy()
    outlier[7], outlier[100_000] = -20, 6
    banned = normal * 3
    banned[rng.integers(0, VOCAB_SIZE, 3 * VOCAB_SIZE)] = -np.inf
    is_sampled = np.isin(np.arange(VOCAB_SIZE), sampled_tokens(1))
    is_often_sampled = np.isin(np.arange(VOCAB_SIZE), sampled_tokens(3))
    result: dict[str, NDArray[Any]] = {
        "peaked": peaked,
        "outlier": outlier,
        "most banned": banned,
        "ties": np.round(normal * 4) / 4,
        "heavy where the sample looks": np.where(is_sampled, 8 + normal * 1e-3, normal),
        "light where the sample looks": np.where(is_sampled, normal, 8 + normal * 1e-3),
        "heavy where all samples look": np.where(is_often_sampled, 8 + normal * 1e-3, normal),
        "light where all samples look": np.where(is_often_sampled, normal, 8 + normal * 1e-3),
        "two levels": np.where(normal > 0.5, 5, 0),
        "two levels and noise": np.where(normal > 0.5, 5, rng.normal(size=VOCAB_SIZE) * 1e-3),
        "heavy tokens in one block": np.where(np.arange(VOCAB_SIZE) < 70, 9 + normal, normal),
        "sorted": np.sort(normal),
    }
    return {name: logits.astype(np.float32) for name, logits in result.items()}


UNEVEN = uneven_vocabularies()


@pytest.mark.parametrize("name", UNEVEN)
@pytest.mark.parametrize("top_k", [1, 64, 128, 5_000, 131_072, 200_000, 262_000])
def test_uneven_vocabulary_keeps_exactly_the_k_best(name: str, top_k: int) -> None:
    logits = UNEVEN[name]
    best = np.lexsort((np.arange(VOCAB_SIZE), -logits))[:top_k]
    kept = best[np.isfinite(logits[best])]
    # So hot that all weights are 1, and the middles of equal shares name the tokens in turn.
    shares = (np.unique(np.linspace(0, len(kept) - 1, 30).astype(int)) + 0.5) / len(kept)
    drawn = [draw(logits, float(u), top_k=top_k, temperature=1e30) for u in shares]
    assert drawn == np.sort(kept)[(shares * len(kept)).astype(int)].tolist()


@pytest.mark.parametrize("name", UNEVEN)
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 0.9999])
def test_uneven_vocabulary_keeps_the_mass_of_top_p(name: str, top_p: float) -> None:
    logits = UNEVEN[name]
    for filters in (
        {"top_p": top_p},
        {"top_p": top_p, "top_k": 100_000, "temperature": 0.7},
        {"top_p": top_p, "top_k": 200_000, "temperature": 1.5},
    ):
        p = distribution(logits, **filters)
        cumulative = np.cumsum(p)
        for uniform in np.random.default_rng(3).random(20):
            token = draw(logits, float(uniform), **filters)
            assert p[token] > 0
            assert cumulative[token] - p[token] - 1e-6 <= uniform <= cumulative[token] + 1e-6


CHI_SQUARE_CASES: dict[str, dict[str, float]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "hot": {"temperature": 2.0},
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.15},
    "top_a": {"top_a": 0.3},
    "combined": {"temperature": 1.3, "top_k": 20, "top_p": 0.93, "top_a": 0.4, "min_p": 0.05},
}


@pytest.mark.parametrize("name", CHI_SQUARE_CASES)
def test_draws_follow_the_exact_distribution(name: str) -> None:
    """10,000 draws (docs: api.md section 6); the bound is chi-square's 99.99 % quantile."""
    filters = CHI_SQUARE_CASES[name]
    rng = np.random.default_rng(20)
    logits = (rng.normal(size=40) * 1.5).astype(np.float32)
    p = distribution(logits, **filters)
    num_draws = 10_000
    counts = np.zeros(len(logits))
    for uniform in rng.random(num_draws):
        counts[draw(logits, float(uniform), **filters)] += 1
    assert counts[p == 0].sum() == 0
    likely = p * num_draws >= 5
    observed = np.append(counts[likely], counts[~likely].sum())
    expected = np.append(p[likely], p[~likely].sum()) * num_draws
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the quantile; 3.719 is the normal one.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3
    assert ((observed - expected) ** 2 / expected).sum() < bound


def test_greedy_takes_the_lowest_id_of_equals_whatever_the_filters_say() -> None:
    logits = np.array([1, 3, -np.inf, 3, 2, -0.0], np.float32)
    assert draw(logits, 0.99, temperature=0.0, top_k=5, top_p=0.5, top_a=1.0, min_p=1.0) == 1
    assert draw(np.array([-1, -0.0, 0.0], np.float32), 0.5, temperature=0.0) == 1


def test_ties_at_the_kth_place_and_at_top_p_go_to_lower_ids() -> None:
    logits = np.array([0, 1, 0, 0, 0], np.float32)
    assert {draw(logits, u, top_k=3) for u in np.linspace(0, 0.999, 50)} == {0, 1, 2}
    equal = np.zeros(10, np.float32)
    assert {draw(equal, u, top_p=0.3) for u in np.linspace(0, 0.999, 50)} == {0, 1, 2}
    assert {draw(equal, u, top_p=0.31) for u in np.linspace(0, 0.999, 50)} == {0, 1, 2, 3}


def test_minus_zero_ties_with_zero() -> None:
    logits = np.array([-0.0, 0.0, -0.0], np.float32)
    assert {draw(logits, u, top_k=2) for u in np.linspace(0, 0.999, 50)} == {0, 1}


def test_the_best_survives_the_hardest_filters() -> None:
    logits = np.array([0, 2, 1], np.float32)
    for filters in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-300}):
        assert draw(logits, 1 - 2**-53, **filters) == 1
    assert draw(np.array([-5.0], np.float32), 0.5, top_a=1.0, min_p=1.0, top_p=0.0) == 0


def test_banned_tokens_are_never_drawn() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[[5, 700]] = [-3, -3]
    for filters in ({}, {"top_k": 10}, {"top_p": 0.99}, {"temperature": 1e30}):
        seen = {draw(logits, u, **filters) for u in np.linspace(0, 1 - 2**-53, 20)}
        assert seen == {5, 700}


float32_logits = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40)
unit = st.floats(0, 1)


@settings(max_examples=150)
@given(
    values=float32_logits,
    uniform=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0, 1e308),
    top_k=st.integers(0, 2**62),
    top_p=unit,
    top_a=unit,
    min_p=unit,
)
def test_any_floats_give_a_token_that_is_not_banned(
    values: list[float], uniform: float, **filters: float
) -> None:
    logits = np.array(values, np.float32)
    assume(not np.isposinf(logits).any() and np.isfinite(logits).any())
    token = draw(logits, uniform, **filters)
    assert 0 <= token < len(logits)
    assert np.isfinite(logits[token])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "at least one"),
        ([0.0, math.nan], "token 1"),
        ([-math.nan, 0.0], "token 0"),
        ([0.0, 1.0, math.inf], "token 2"),
        ([-math.inf, -math.inf], "all are -inf"),
    ],
)
def test_logits_that_make_no_distribution_are_refused(values: list[float], message: str) -> None:
    logits = np.array(values, np.float32)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match=message):
            draw(logits, 0.5, temperature=temperature)
    with pytest.raises(ValueError, match=message):
        top_logprobs(logits, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", -0.1),
        ("top_p", math.nan),
        ("top_a", 1.1),
        ("min_p", 2.0),
        ("uniform", 1.0),
        ("uniform", math.nan),
        ("uniform", -0.1),
    ],
)
def test_numbers_out_of_range_are_named(name: str, value: float) -> None:
    arguments: dict[str, Any] = {**NEUTRAL, "uniform": 0.5, name: value}
    with pytest.raises(ValueError, match=name):
        sample(np.zeros(3, np.float32), **arguments)


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        draw(np.zeros(3), 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vocab_size"):
        draw(np.zeros((3, 3), np.float32), 0.5)
    with pytest.raises(ValueError, match="contiguous"):
        draw(np.zeros(6, np.float32)[::2], 0.5)


@settings(max_examples=200)
@given(logits=tied_logits, count=st.integers(0, 70), num_banned=st.integers(0, 5))
def test_top_logprobs_agree_with_a_full_sort(
    logits: NDArray[np.float32], count: int, num_banned: int
) -> None:
    logits = np.concatenate([np.full(num_banned, -np.inf, np.float32), logits])
    exact = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    best = np.lexsort((np.arange(len(logits)), -logits))[: len(logits) - num_banned][:count]
    top = top_logprobs(logits, count)
    assert top.ids.tolist() == best.tolist()
    np.testing.assert_allclose(top.logprobs, exact[best], atol=2e-6)
    np.testing.assert_allclose(logits[best] - top.logsumexp, exact[best], atol=2e-6)


@pytest.mark.parametrize("name", [*UNEVEN, *FLAT])
def test_top_logprobs_of_uneven_vocabularies(name: str) -> None:
    logits = UNEVEN[name] if name in UNEVEN else FLAT[name]
    for count in (1, 20, 128, 300):
        best = np.lexsort((np.arange(VOCAB_SIZE), -logits))[:count]
        assert top_logprobs(logits, count).ids.tolist() == best.tolist()


def test_few_finite_logits_are_all_that_is_kept() -> None:
    """Fewer than top_k, in fewer blocks than top_k."""
    logits = np.full(VOCAB_SIZE, -np.inf, np.float32)
    kept = [5, 6, 100_000, 262_143]
    logits[kept] = [1, 2, 1, 1.5]
    drawn = {draw(logits, u, top_k=64) for u in np.linspace(0, 0.999, 200)}
    assert drawn == set(kept)
    assert top_logprobs(logits, 20).ids.tolist() == [6, 262_143, 5, 100_000]


def test_top_logprobs_of_a_whole_vocabulary() -> None:
    logits = (np.random.default_rng(3).normal(size=VOCAB_SIZE) * 4).astype(np.float32)
    wide = logits.astype(np.float64)
    exact = wide.max() + np.log(np.exp(wide - wide.max()).sum())
    top = top_logprobs(logits, 20)
    assert top.logsumexp == pytest.approx(exact, abs=1e-6)
    assert top.ids.tolist() == np.argsort(-logits, kind="stable")[:20].tolist()
    with pytest.raises(ValueError, match="count"):
        top_logprobs(logits, -1)
