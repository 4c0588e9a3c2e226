"""10,000 draws of the real sampler against the exact distribution (docs/model.md, "Sampling").

The exact distribution is computed here in float64 from the formulas; the test is Pearson's
chi-square at p = 1e-4 with fixed seeds, bins under 5 expected draws merged.
"""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from nestling.engine.clients.messages import SamplingParams
from nestling.engine.sampler import RequestSampler

VOCAB = 300
NUM_DRAWS = 10_000
LOGITS = np.random.default_rng(11).normal(0, 2.2, VOCAB).astype(np.float32)
LIKELY = [int(token_id) for token_id in np.argsort(-LOGITS)]
PROMPT = [*LIKELY[1:3], *LIKELY[40:80], LIKELY[2], LIKELY[-1]]
GENERATED = [LIKELY[0], LIKELY[3], LIKELY[3], LIKELY[3]]
"""Tokens that a request with penalties has drawn before the draw that counts."""
COMBINED: dict[str, Any] = {
    "temperature": 1.4,
    "top_k": 60,
    "top_p": 0.9,
    "top_a": 0.2,
    "min_p": 0.02,
}
CASES = {
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.6),
    "hot": SamplingParams(temperature=2.0),
    "top_k": SamplingParams(top_k=12),
    "top_k_above_vocab": SamplingParams(top_k=VOCAB + 5),
    "top_p": SamplingParams(top_p=0.7),
    "min_p": SamplingParams(min_p=0.08),
    "top_a": SamplingParams(top_a=0.3),
    "top_k_then_top_p": SamplingParams(top_k=20, top_p=0.8),
    "top_p_then_top_a": SamplingParams(top_p=0.9, top_a=0.6, temperature=1.2),
    "top_a_then_min_p": SamplingParams(top_a=0.2, min_p=0.1),
    "top_k_then_min_p": SamplingParams(top_k=15, min_p=0.03, temperature=0.7),
    "all": SamplingParams(**COMBINED),
    "bias": SamplingParams(logit_bias={3: 4.0, 8: -3.0, 120: 2.5}),
    "repetition": SamplingParams(repetition_penalty=1.7),
    "repetition_below_1": SamplingParams(repetition_penalty=0.6),
    "frequency": SamplingParams(frequency_penalty=1.1),
    "frequency_below_0": SamplingParams(frequency_penalty=-0.8),
    "presence": SamplingParams(presence_penalty=1.6),
    "everything": SamplingParams(
        **COMBINED,
        repetition_penalty=1.3,
        frequency_penalty=0.5,
        presence_penalty=-0.7,
        logit_bias={3: 4.0, 8: -3.0},
    ),
}


def has_penalties(params: SamplingParams) -> bool:
    """Whether what came before the draw matters."""
    neutral = SamplingParams()
    names = ("repetition_penalty", "frequency_penalty", "presence_penalty")
    return any(getattr(params, name) != getattr(neutral, name) for name in names)


def exact_distribution(
    params: SamplingParams, prompt: list[int], generated: list[int]
) -> np.ndarray:
    """Steps 2 to 4 and 7 to 12 of the one semantic."""
    logits = LOGITS.astype(np.float64)
    for token_id, bias in params.logit_bias.items():
        logits[token_id] += bias
    for token_id in {*prompt, *generated}:
        r = params.repetition_penalty
        logits[token_id] = logits[token_id] / r if logits[token_id] > 0 else logits[token_id] * r
    for token_id in set(generated):
        logits[token_id] -= params.frequency_penalty * generated.count(token_id)
        logits[token_id] -= params.presence_penalty
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


def forced(token_id: int) -> np.ndarray:
    """Logits that leave no choice."""
    logits = np.full(VOCAB, -1e4, np.float32)
    logits[token_id] = 1e4
    return logits


def chi_square_limit(degrees: int) -> float:
    """Wilson and Hilferty's approximation of the quantile for p = 1e-4."""
    z = NormalDist().inv_cdf(1 - 1e-4)
    root = 1 - 2 / (9 * degrees) + z * (2 / (9 * degrees)) ** 0.5
    return float(degrees * root**3)


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_exact_distribution(name: str) -> None:
    params = CASES[name]
    prompt, generated = (PROMPT, GENERATED) if has_penalties(params) else ([], [])
    steps = [(token_id, forced(token_id)) for token_id in generated]
    counts = np.zeros(VOCAB)
    for seed in range(NUM_DRAWS):  # one request each, so that no draw changes the next
        subject = RequestSampler(
            params, seed=seed + 1, prompt_token_ids=prompt, num_text_tokens=VOCAB
        )
        for token_id, logits in steps:
            assert subject.sample(logits)[0] == token_id
        counts[subject.sample(LOGITS)[0]] += 1
    expected = exact_distribution(params, prompt, generated) * NUM_DRAWS
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
    expected = exact_distribution(SamplingParams(), [], []) * NUM_DRAWS
    common = expected >= 5
    statistic = ((counts[common] - expected[common]) ** 2 / expected[common]).sum()
    assert statistic < chi_square_limit(int(common.sum()))


@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("plain", "top_k_above_vocab")]
)
def test_the_test_can_tell(name: str) -> None:
    """10,000 draws without the parameters would fail: their distribution is another one."""
    params = CASES[name]
    prompt, generated = (PROMPT, GENERATED) if has_penalties(params) else ([], [])
    ours = exact_distribution(params, prompt, generated)
    plain = exact_distribution(SamplingParams(), [], [])
    assert NUM_DRAWS * ((plain - ours) ** 2 / plain).sum() > 2 * chi_square_limit(VOCAB - 1)
