"""The body of POST /v1/completions: OpenAI's text completion over this model.

The sampling fields are those of chat; see `schemas.py`. docs/api.md explains each row.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nestling.api.requests.chat import (
    FIELDS,
    NEUTRAL_FIELDS,
    InferenceBody,
    check_model,
    read_include_usage,
    refuse_unsupported,
    unknown_stream_options,
)
from nestling.chat.fields import (
    Boolean,
    Integer,
    Object,
    Reader,
    Text,
    invalid,
    not_supported,
    read_fields,
)
from nestling.chat.prompts import read_prompts
from nestling.chat.request import CompletionRequest
from nestling.chat.sampling import MAX_N, MAX_TOKENS, SAMPLING_FIELDS, TEXT_FIELDS
from nestling.engine.clients.messages import MAX_COUNT, SamplingParams

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for text completions."""
MAX_CHOICES = 32
"""Prompts times `n`."""
MAX_LOGPROBS = 5

COMPLETION_FIELDS: Mapping[str, Reader] = {
    "max_tokens": replace(MAX_TOKENS, floors=True),
    "stream": Boolean(),
    "stream_options": Object(),
    "echo": Boolean(),
    "logprobs": Integer(0, MAX_LOGPROBS),
    "best_of": Integer(1, MAX_N),
    "suffix": Text(),
    "user": Text(),
    "metadata": Object(),
}
"""Fields whose meaning differs from chat's or that chat does not have."""

COMPLETION_NEUTRAL_FIELDS: Mapping[str, tuple[Any, ...]] = {
    name: values for name, values in NEUTRAL_FIELDS.items() if name not in COMPLETION_FIELDS
}
KNOWN_COMPLETION_FIELDS = frozenset(
    {
        *FIELDS,
        *COMPLETION_FIELDS,
        *COMPLETION_NEUTRAL_FIELDS,
        *("model", "prompt"),
    }
)


def read_completion_body(
    raw: Mapping[str, Any], model_names: tuple[str, ...], max_model_len: int = MAX_COUNT
) -> InferenceBody:
    """Validate the whole body; raises `InvalidRequestError` for the first field that is wrong.

    Lists of more ids than the context holds are refused before any of them is looked at.
    """
    given = {name: value for name, value in raw.items() if value is not None}
    check_model(given.get("model"), model_names)
    prompts = read_prompts(given.get("prompt"), max_model_len, MAX_CHOICES)
    refuse_unsupported(given, COMPLETION_NEUTRAL_FIELDS)
    values = read_fields(given, COMPLETION_FIELDS)
    sampling = SamplingParams(
        max_tokens=values.get("max_tokens", DEFAULT_MAX_TOKENS),
        logprobs=values.get("logprobs"),
        **read_fields(given, SAMPLING_FIELDS),
    )
    text = read_fields(given, TEXT_FIELDS)
    _check_together(values, text.get("n", 1), len(prompts))
    request = CompletionRequest(
        prompts=prompts,
        echo=values.get("echo", False),
        sampling=sampling,
        **text,
    )
    return InferenceBody(
        request=request,
        stream=values.get("stream", False),
        include_usage=read_include_usage(values.get("stream_options")),
        unknown=(
            *(name for name in given if name not in KNOWN_COMPLETION_FIELDS),
            *unknown_stream_options(given),
        ),
    )


def _check_together(values: Mapping[str, Any], n: int, num_prompts: int) -> None:
    """Raise for fields that are good alone and not beside each other."""
    if values.get("echo") and "logprobs" in values:
        raise not_supported("logprobs", " together with 'echo'")
    if values.get("best_of", n) != n:
        best_of = values["best_of"]
        raise not_supported("best_of", f": expected the value of 'n', {n}, but got {best_of}")
    if values.get("suffix"):
        raise not_supported("suffix", ": expected an empty string or null, but got text")
    if num_prompts * n > MAX_CHOICES:
        message = f"Invalid 'n': too many choices. Expected prompts times n <= {MAX_CHOICES}, but "
        raise invalid(f"{message}got {num_prompts} * {n} instead.", "n", "integer_above_max_value")
