"""What can never run is refused with its reason; nothing else is."""

import math

import pytest

from nestling.engine.admission import RequestLimits, admit
from nestling.engine.clients.messages import SamplingParams, Submit
from nestling.errors import ContextLengthExceededError, InvalidRequestError

LIMITS = RequestLimits(vocab_size=72, num_text_tokens=64, max_model_len=20, num_cache_slots=32)


def submit(prompt: list[int], params: SamplingParams | None = None) -> Submit:
    return Submit("r", prompt, params or SamplingParams())


def test_longest_prompt_still_gets_one_token() -> None:
    assert admit(submit([1] * 19), LIMITS).max_tokens == 1


def test_max_tokens_is_capped_to_the_context() -> None:
    assert admit(submit([1] * 5, SamplingParams(max_tokens=99)), LIMITS).max_tokens == 15
    assert admit(submit([1] * 5, SamplingParams(max_tokens=3)), LIMITS).max_tokens == 3


def test_too_long_for_the_context_names_both_numbers() -> None:
    with pytest.raises(
        ContextLengthExceededError, match=r"has 20 tokens.*context holds 20"
    ) as info:
        admit(submit([1] * 20), LIMITS)
    assert info.value.code == "context_length_exceeded"


def test_too_long_for_all_blocks_names_both_numbers() -> None:
    limits = RequestLimits(vocab_size=72, num_text_tokens=64, max_model_len=99, num_cache_slots=8)
    with pytest.raises(ContextLengthExceededError, match=r"has 8 tokens.*KV cache holds 8"):
        admit(submit([1] * 8), limits)


@pytest.mark.parametrize("prompt", [[], [72], [-1], [1, 2, 1 << 40]])
def test_bad_prompts(prompt: list[int]) -> None:
    with pytest.raises(InvalidRequestError, match="prompt"):
        admit(submit(prompt), LIMITS)


def test_media_ids_may_stand_in_a_prompt() -> None:
    assert admit(submit([71, 64]), LIMITS).token_ids == [71, 64]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", math.nan),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_a", 2),
        ("min_p", -0.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("frequency_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("seed", -1),
        ("seed", 1 << 63),
        ("choice_index", -1),
        ("logprobs", 21),
        ("logit_bias", {64: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {3: math.nan}),
        ("logit_bias", {3: 1e38}),
    ],
)
def test_bad_parameters_are_named(name: str, value: object) -> None:
    params = SamplingParams(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=name) as info:
        admit(submit([1], params), LIMITS)
    assert info.value.param == name


def test_no_seed_is_fresh_entropy_and_a_seed_is_kept() -> None:
    seeds = {admit(submit([1]), LIMITS).seed for _ in range(50)}
    assert len(seeds) == 50
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert admit(submit([1], SamplingParams(seed=7)), LIMITS).seed == 7
