"""The sampler's distribution against transformers' logits processors, top_a by its formula.

A sampler gives tokens, not probabilities, so the random number is swept over an even grid: how
often a token comes is then its probability to within a step of the grid. Frequency and presence
penalties have no processor in transformers: they stand here by OpenAI's formula, where they act.
"""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nestling.engine.clients.messages import SamplingParams
from nestling.engine.sampler import RequestSampler

pytestmark = pytest.mark.parity

VOCAB = 160
GRID = 3000


def reference_distribution(
    logits: NDArray[np.float32],
    params: SamplingParams,
    input_ids: list[int],
    generated: list[int],
) -> NDArray[np.float64]:
    """transformers' processors in the order of its `generate`, top_a before min_p."""
    import torch
    from transformers.generation import logits_process as hf

    counts = torch.bincount(torch.tensor(generated, dtype=torch.long), minlength=VOCAB)
    penalties = params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
    processors = [
        hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty),
        lambda _ids, scores: scores - penalties,
        hf.TemperatureLogitsWarper(params.temperature),
        hf.TopPLogitsWarper(params.top_p),
    ]
    if params.logit_bias:
        bias = {(token_id,): value for token_id, value in params.logit_bias.items()}
        processors.insert(0, hf.SequenceBiasLogitsProcessor(bias))
    if params.top_k:
        processors.insert(-1, hf.TopKLogitsWarper(params.top_k))
    ids = torch.tensor([input_ids + generated])
    scores = torch.from_numpy(logits.copy())[None]
    for processor in processors:
        scores = processor(ids, scores)
    probabilities = scores.softmax(-1)
    limit = params.top_a * probabilities.max() ** 2
    scores = scores.masked_fill(probabilities < limit, -float("inf"))
    scores = hf.MinPLogitsWarper(params.min_p)(ids, scores)
    return np.asarray(scores.softmax(-1)[0].double().numpy())


def swept_distribution(
    logits: NDArray[np.float32],
    params: SamplingParams,
    input_ids: list[int],
    generated: list[int],
) -> NDArray[np.float64]:
    """Ours: GRID requests of one prompt and past draw their next token at even random numbers."""
    counts = np.zeros(VOCAB)
    past = [0.5] * len(generated)
    numbers = [number for i in range(GRID) for number in (*past, (i + 0.5) / GRID)]
    forced = np.full((len(generated), VOCAB), -1e4, np.float32)
    forced[np.arange(len(generated)), generated] = 1e4
    with mock.patch("nestling.engine.sampler.uniform", side_effect=numbers):
        for _ in range(GRID):
            subject = RequestSampler(
                params, seed=1, prompt_token_ids=input_ids, num_text_tokens=VOCAB
            )
            for token_id, row in zip(generated, forced, strict=True):
                assert subject.sample(row)[0] == token_id
            counts[subject.sample(logits)[0]] += 1
    return counts / GRID


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    input_ids=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40),
    generated=st.lists(st.integers(0, VOCAB - 1), max_size=4),
    params=st.builds(
        SamplingParams,
        temperature=st.floats(0.3, 2),
        top_k=st.sampled_from([0, 1, 7, 40, VOCAB, 1000]),
        top_p=st.sampled_from([1.0, 0.95, 0.7, 0.2, 0.01]),
        top_a=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        min_p=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
        repetition_penalty=st.floats(0.5, 2),
        frequency_penalty=st.sampled_from([0.0, -2.0, 0.7, 2.0]),
        presence_penalty=st.sampled_from([0.0, -1.5, 0.9, 2.0]),
        logit_bias=st.dictionaries(
            st.integers(0, VOCAB - 1), st.floats(-100, 100).filter(bool), max_size=4
        ),
    ),
)
def test_the_distribution_is_transformers(
    seed: int, input_ids: list[int], generated: list[int], params: SamplingParams
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
    expected = reference_distribution(logits, params, input_ids, generated)
    ours = swept_distribution(logits, params, input_ids, generated)
    # A grid step at either end of a token's interval; 1e-5 for sums in float32.
    np.testing.assert_allclose(ours, expected, atol=2 / GRID + 1e-5)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), num_top=st.integers(0, 20))
def test_logprobs_are_torchs_log_softmax(seed: int, num_top: int) -> None:
    import torch

    logits = np.random.default_rng(seed).normal(0, 8, VOCAB).astype(np.float32)
    params = SamplingParams(logprobs=num_top, logit_bias={1: 50.0}, temperature=0.5)
    subject = RequestSampler(params, seed=seed, prompt_token_ids=[1], num_text_tokens=VOCAB)
    token_id, logprobs = subject.sample(logits)
    expected = torch.from_numpy(logits).log_softmax(-1)
    assert logprobs is not None
    assert logprobs.logprob == pytest.approx(float(expected[token_id]), abs=1e-4)
    top = expected.topk(num_top) if num_top else None
    assert [pair[0] for pair in logprobs.top] == ([] if top is None else top.indices.tolist())
    if top is not None:
        values = [pair[1] for pair in logprobs.top]
        np.testing.assert_allclose(values, top.values.numpy(), atol=1e-4)
