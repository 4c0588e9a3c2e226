"""Arguments of Python callers, checked by the readers of the HTTP door, with the same messages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nestling.chat.fields import Integer, Reader, read_array, read_fields, wrong_type
from nestling.chat.prompts import check_ids
from nestling.chat.sampling import MAX_TOKENS, SAMPLING_FIELDS, TEXT_FIELDS, TOP_LOGPROBS
from nestling.chat.template import ChatMessage
from nestling.engine.clients.messages import SamplingParams

_FIELDS: Mapping[str, Reader] = {
    **SAMPLING_FIELDS,
    "max_tokens": replace(MAX_TOKENS, floors=True),
    "logprobs": TOP_LOGPROBS,
    "choice_index": Integer(0),
}


def as_json(value: Any) -> Any:
    """Return the JSON value that stands for a Python one; what has none is returned unchanged.

    Lists, tuples, ranges, mappings, messages and numpy's integers and their arrays have one.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, range)):
        return [as_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, ChatMessage) and not value.files:
        return {"role": value.role, "content": value.text}
    return value


def read_token_ids(name: str, value: Any, vocab_size: int) -> list[int]:
    """Return token ids from any sequence of integers."""
    items = read_array(name, as_json(value))
    ids = [Integer(0).read(f"{name}[{i}]", item) for i, item in enumerate(items)]
    check_ids(name, ids, vocab_size)
    return ids


def read_stop(value: Any) -> tuple[str, ...]:
    """Return stop strings: one text, several, or None for none."""
    found = as_json(value)
    stop: tuple[str, ...] = () if found is None else TEXT_FIELDS["stop"].read("stop", found)
    return stop


def read_sampling_params(value: Any, vocab_size: int) -> tuple[SamplingParams, dict[str, float]]:
    """Return parameters without `logit_bias`, and that by key as in JSON; None is the default."""
    if value is None:
        return SamplingParams(), {}
    if not isinstance(value, SamplingParams):
        raise wrong_type("sampling_params", "SamplingParams", value)
    given = {name: as_json(getattr(value, name)) for name in SamplingParams.__struct_fields__}
    given = {name: item for name, item in given.items() if item is not None}
    stop_token_ids = read_token_ids("stop_token_ids", given.get("stop_token_ids", []), vocab_size)
    params = SamplingParams(stop_token_ids=tuple(stop_token_ids), **read_fields(given, _FIELDS))
    return params, _read_logit_bias(given.get("logit_bias", {}))


def _read_logit_bias(value: Any) -> dict[str, float]:
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, (int, str, np.integer)):
                raise wrong_type("logit_bias", "token ids or texts as keys", key)
        value = {str(key): bias for key, bias in value.items()}
    biases: dict[str, float] = TEXT_FIELDS["logit_bias"].read("logit_bias", value)
    return biases
