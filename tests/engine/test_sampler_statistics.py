"""10,000 draws of the real sampler against the exact distribution (docs/model.md, "Sampling").

The exact distribution is computed here in float64 from the formulas; the test is Pearson's
chi-square at p = 1e-4 with fixed seeds, bins under 5 expected draws merged.
"""

from statistics import NormalDist

import numpy as np
import pytest

from nestling.engine.messages import SamplingParams
from nestling.engine.sampler import RequestSampler

VOCAB = 300
NUM_DRAWS = 10_000
LOGITS = np.random.default_rng(11).normal(0, 2.2, VOCAB).astype(np.float32)
CASES = {
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.6),
    "hot": SamplingParams(temperature=2.0),
    "top_k": SamplingParams(top_k=12),
    "top_k_above_vocab": SamplingParams(top_k=VOCAB + 5),
    "top_p": SamplingParams(top_p=0.7),
    "min_p": SamplingParams(min_p=0.08),
    "top_a": SamplingParams(top_a=0.3, temperature=0.8),
    "all": SamplingParams(temperature=1.4, top_k=60, top_p=0.9, top_a=0.2, min_p=0.02),
    "with_penalties": SamplingParams(
        temperature=0.9, top_k=40, top_p=0.95, repetition_penalty=1.3, logit_bias={3: 4.0, 8: -3.0}
    ),
}


def exact_distribution(params: SamplingParams, prompt: list[int]) -> np.ndarray:
    """Steps 2, 3 and 7 to 12 of the one semantic."""
    logits = LOGITS.astype(np.float64)
    for token_id, bias in params.logit_bias.items():
        logits[token_id] += bias
    for token_id in set(prompt):
        r = params.repetition_penalty
        logits[token_id] = logits[token_id] / r if logits[token_id] > 0 else logits[token_id] * r
    logits /= params.temperature
    order = np.argsort(-logits, kind="stable")
    p = np.exp(logits[order] - logits.max())
    if 0 < params.top_k < VOCAB:
        p[params.top_k :] = 0
    p /= p.sum()
    p[1:][np.cumsum(p)[:-1] >= params.top_p] = 0
    p /= p.sum()
    p[1:][p[1:] < params.top_a * p[0] ** 2] = 0
    p[1:][p[1:] < params.min_p * p[0]] = 0
    distribution = np.zeros(VOCAB)
    distribution[order] = p / p.sum()
    return distribution


def chi_square_limit(degrees: int) -> float:
    """Wilson and Hilferty's approximation of the quantile for p = 1e-4."""
    z = NormalDist().inv_cdf(1 - 1e-4)
    root = 1 - 2 / (9 * degrees) + z * (2 / (9 * degrees)) ** 0.5
    return float(degrees * root**3)


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_exact_distribution(name: str) -> None:
    params = CASES[name]
    prompt = [1, 2, 3, 50] if params.repetition_penalty != 1 else []
    counts = np.zeros(VOCAB)
    for seed in range(NUM_DRAWS):  # one request each, so that no draw changes the next
        subject = RequestSampler(
            params, seed=seed + 1, prompt_token_ids=prompt, num_text_tokens=VOCAB
        )
        counts[subject.sample(LOGITS)[0]] += 1
    expected = exact_distribution(params, prompt) * NUM_DRAWS
    assert counts[expected == 0].sum() == 0
    rare = (expected > 0) & (expected < 5)
    observed = np.append(counts[expected >= 5], counts[rare].sum())
    wanted = np.append(expected[expected >= 5], expected[rare].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    assert len(wanted) > 3
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    assert statistic < chi_square_limit(len(wanted) - 1)


def test_steps_of_one_request_follow_it_too() -> None:
    subject = RequestSampler(SamplingParams(), seed=5, prompt_token_ids=[], num_text_tokens=VOCAB)
    counts = np.bincount([subject.sample(LOGITS)[0] for _ in range(NUM_DRAWS)], minlength=VOCAB)
    expected = exact_distribution(SamplingParams(), []) * NUM_DRAWS
    common = expected >= 5
    statistic = ((counts[common] - expected[common]) ** 2 / expected[common]).sum()
    assert statistic < chi_square_limit(int(common.sum()))
