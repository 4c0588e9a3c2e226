"""Each step before the draw, the draw's key and counter, and the log-probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.engine.clients.messages import SamplingParams
from nestling.engine.sampler import RequestSampler, uniform

NUM_TEXT = 40


def sampler(params: SamplingParams, prompt: list[int] | None = None) -> RequestSampler:
    return RequestSampler(
        params, seed=params.seed or 1, prompt_token_ids=prompt or [0], num_text_tokens=NUM_TEXT
    )


def random_logits(seed: int, width: int = NUM_TEXT + 8) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 3, width).astype(np.float32)
    logits[NUM_TEXT:] = 100.0  # ids beyond the text must never win
    return logits


def reference_processed(
    logits: np.ndarray, params: SamplingParams, prompt: list[int], generated: list[int]
) -> np.ndarray:
    """Steps 2 to 4, written as in docs/model.md, one id at a time in float64."""
    out = logits[:NUM_TEXT].astype(np.float64)
    for token_id, bias in params.logit_bias.items():
        out[token_id] += bias
    r = params.repetition_penalty
    for token_id in set(prompt) | set(generated):
        if token_id < NUM_TEXT:
            out[token_id] = out[token_id] / r if out[token_id] > 0 else out[token_id] * r
    for token_id in set(generated):
        out[token_id] -= params.frequency_penalty * generated.count(token_id)
        out[token_id] -= params.presence_penalty
    return out


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    prompt=st.lists(st.integers(0, NUM_TEXT + 7), min_size=1, max_size=30),
    bias=st.dictionaries(st.integers(0, NUM_TEXT - 1), st.floats(-100, 100), max_size=5),
    repetition=st.floats(0.5, 2),
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
)
def test_greedy_tokens_follow_the_formulas(
    seed: int,
    prompt: list[int],
    bias: dict[int, float],
    repetition: float,
    frequency: float,
    presence: float,
) -> None:
    params = SamplingParams(
        temperature=0,
        logit_bias=bias,
        repetition_penalty=repetition,
        frequency_penalty=frequency,
        presence_penalty=presence,
    )
    subject = sampler(params, prompt)
    generated: list[int] = []
    for step in range(40):
        logits = random_logits(seed + step)
        before = logits.copy()
        expected = reference_processed(logits, params, prompt, generated)
        token_id, _ = subject.sample(logits)
        assert expected[token_id] >= expected.max() - 1e-4  # float32 against float64
        np.testing.assert_array_equal(logits, before)
        generated.append(token_id)


def test_greedy_takes_the_lowest_id_on_ties() -> None:
    logits = np.zeros(NUM_TEXT, np.float32)
    logits[[7, 9, 30]] = 5
    assert sampler(SamplingParams(temperature=0)).sample(logits)[0] == 7


def test_a_bias_of_100_bans_and_picks() -> None:
    logits = 30 * np.tanh(random_logits(3))
    best = int(logits[:NUM_TEXT].argmax())
    params = SamplingParams(logit_bias={best: -100})
    subject = sampler(params)
    assert best not in {subject.sample(logits)[0] for _ in range(300)}
    subject = sampler(SamplingParams(logit_bias={5: 100}))
    assert {subject.sample(logits)[0] for _ in range(300)} == {5}


def test_ids_beyond_the_text_are_never_sampled() -> None:
    subject = sampler(SamplingParams(temperature=2.0))
    assert all(subject.sample(random_logits(i))[0] < NUM_TEXT for i in range(300))


def test_repetition_penalty_counts_prompt_and_output_once() -> None:
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    subject = sampler(params, [3, 3, 3])
    logits = np.full(NUM_TEXT, -9, np.float32)
    logits[[3, 4, 5]] = (4.0, 2.5, 1.9)
    assert subject.sample(logits)[0] == 4  # 4.0 / 2 = 2.0, once for all three
    assert subject.sample(logits)[0] == 3  # 4 has been generated: 1.25
    assert subject.sample(logits)[0] == 3
    negative = np.full(NUM_TEXT, -9, np.float32)
    negative[[3, 6]] = (-1.0, -1.5)
    assert subject.sample(negative)[0] == 6  # -1 * 2 = -2


def test_frequency_and_presence_leave_the_prompt_alone() -> None:
    logits = np.zeros(NUM_TEXT, np.float32)
    logits[[3, 4]] = (1.0, 0.75)
    subject = sampler(SamplingParams(temperature=0, presence_penalty=0.5), [3])
    assert [subject.sample(logits)[0] for _ in range(3)] == [3, 4, 3]
    subject = sampler(SamplingParams(temperature=0, frequency_penalty=0.1), [3])
    assert [subject.sample(logits)[0] for _ in range(5)] == [3, 3, 3, 4, 3]


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(0, 20), st.floats(0, 2))
def test_logprobs_are_the_raw_log_softmax(seed: int, num_top: int, temperature: float) -> None:
    logits = random_logits(seed)
    params = SamplingParams(
        temperature=temperature, logprobs=num_top, logit_bias={1: 50.0}, repetition_penalty=1.3
    )
    token_id, logprobs = sampler(params, [1, 2]).sample(logits)
    assert logprobs is not None
    raw = logits[:NUM_TEXT].astype(np.float64)
    expected = raw - raw.max() - np.log(np.exp(raw - raw.max()).sum())
    assert logprobs.token_id == token_id
    assert logprobs.logprob == pytest.approx(expected[token_id], abs=1e-4)
    order = np.argsort(-raw, kind="stable")[:num_top]
    assert [item[0] for item in logprobs.top] == order.tolist()
    assert dict(logprobs.top).get(token_id, logprobs.logprob) == logprobs.logprob
    np.testing.assert_allclose([item[1] for item in logprobs.top], expected[order], atol=1e-4)


def test_no_logprobs_unless_asked() -> None:
    assert sampler(SamplingParams()).sample(random_logits(1))[1] is None


def test_logits_that_are_not_numbers_are_an_error() -> None:
    logits = random_logits(1)
    logits[7] = np.nan
    with pytest.raises(ValueError):
        sampler(SamplingParams()).sample(logits)


@pytest.mark.parametrize("temperature", [1e-30, 1e-4])
def test_a_tiny_temperature_is_nearly_greedy(temperature: float) -> None:
    logits = random_logits(4)
    best = int(logits[:NUM_TEXT].argmax())
    assert sampler(SamplingParams(temperature=temperature)).sample(logits)[0] == best


def test_the_draw_depends_on_seed_choice_and_step_only() -> None:
    logits = random_logits(5)

    def draws(seed: int, choice: int) -> list[int]:
        subject = sampler(SamplingParams(seed=seed, choice_index=choice, temperature=2))
        return [subject.sample(logits)[0] for _ in range(30)]

    assert draws(7, 0) == draws(7, 0)
    different = {tuple(draws(7, 0)), tuple(draws(7, 1)), tuple(draws(8, 0)), tuple(draws(1, 7))}
    assert len(different) == 4


def test_uniform_is_pinned_and_flat() -> None:
    assert uniform(7, 0, 3) == uniform(7, 0, 3)
    # A change of generator would change everybody's seeded answers: numpy's Philox4x64, 53 bits.
    assert uniform(123, 1, 5) == pytest.approx(0.82727032268157, abs=1e-14)
    drawn = np.array([uniform(42, 0, step) for step in range(4000)])
    assert 0 <= drawn.min() < drawn.max() < 1
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert ((counts - 200.0) ** 2 / 200).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.05
    assert uniform((1 << 63) - 1, (1 << 63) - 1, 1 << 40) < 1
