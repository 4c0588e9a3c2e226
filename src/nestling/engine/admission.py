"""The engine's door: turns a `Submit` into a `Request`, or says why it can never run.

The API refuses bad fields long before; this guards the loop against any other caller, so that no
token id, number or length can reach an array it does not fit.
"""

import secrets
from dataclasses import dataclass

from nestling.engine.clients.messages import MAX_LOGIT_BIAS, RANGES, SamplingParams, Submit
from nestling.engine.request import Request
from nestling.errors import ContextLengthExceededError, InvalidRequestError


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Tells what the loaded model and its cache can take."""

    vocab_size: int
    num_text_tokens: int
    max_model_len: int
    num_cache_slots: int

    @property
    def max_len(self) -> int:
        """Prompt and answer together, by context and cache."""
        return min(self.max_model_len, self.num_cache_slots)


def admit(submit: Submit, limits: RequestLimits) -> Request:
    """A fresh request; raises `InvalidRequestError` or `ContextLengthExceededError`."""
    params = submit.sampling_params
    _check_prompt(submit.prompt_token_ids, limits)
    _check_params(params, limits)
    num_prompt_tokens = len(submit.prompt_token_ids)
    return Request(
        request_id=submit.request_id,
        token_ids=list(submit.prompt_token_ids),
        num_prompt_tokens=num_prompt_tokens,
        sampling_params=params,
        max_tokens=min(params.max_tokens, limits.max_len - num_prompt_tokens),
        seed=secrets.randbits(63) if params.seed is None else params.seed,
        cache_salt=submit.cache_salt,
    )


def _check_prompt(token_ids: list[int], limits: RequestLimits) -> None:
    if not token_ids:
        raise InvalidRequestError("the prompt is empty", param="prompt_token_ids")
    for extreme in (min(token_ids), max(token_ids)):
        if not 0 <= extreme < limits.vocab_size:
            raise InvalidRequestError(
                f"prompt token id {extreme} is outside 0..{limits.vocab_size - 1}",
                param="prompt_token_ids",
            )
    if len(token_ids) + 1 > limits.max_len:
        by_cache = limits.num_cache_slots < limits.max_model_len
        bound = "KV cache" if by_cache else "context"
        raise ContextLengthExceededError(
            f"the prompt has {len(token_ids)} tokens and needs room for one more; "
            f"the {bound} holds {limits.max_len}",
            param="prompt_token_ids",
        )


def _check_params(params: SamplingParams, limits: RequestLimits) -> None:
    for name, (least, most) in RANGES.items():
        value = getattr(params, name)
        if value is not None and not least <= value <= most:  # NaN fails too
            raise InvalidRequestError(
                f"{name}: expected {least} to {most}, got {value}", param=name
            )
    for token_id, bias in params.logit_bias.items():
        if not 0 <= token_id < limits.num_text_tokens or not abs(bias) <= MAX_LOGIT_BIAS:
            raise InvalidRequestError(
                f"logit_bias: expected token ids 0..{limits.num_text_tokens - 1} with values "
                f"up to {MAX_LOGIT_BIAS:g}, got {token_id}: {bias}",
                param="logit_bias",
            )
