"""Turns requests into token ids: prompts that fit the context, and biases by token. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from nestling.chat.fields import Integer, empty_array, missing, read_array, wrong_type
from nestling.chat.template import ChatMessage, render_prompt
from nestling.chat.tokenizer import Tokenizer
from nestling.errors import ContextLengthExceededError, InvalidRequestError


def read_prompts(
    value: Any, max_model_len: int, max_prompts: int | None = None
) -> tuple[str | tuple[int, ...], ...]:
    """Return the prompts: one text, one list of token ids, or an array of either.

    Lists of more ids than the context holds are refused before any of them is looked at.
    """
    if value is None:
        raise missing("prompt")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise wrong_type("prompt", "a string, or an array of strings or of token ids", value)
    if not value or not isinstance(value[0], (str, list)):
        return (_read_ids("prompt", value, max_model_len),)
    read_array("prompt", value, maximum=max_prompts)
    return tuple(_read_prompt(f"prompt[{i}]", item, max_model_len) for i, item in enumerate(value))


def _read_prompt(name: str, value: Any, max_model_len: int) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _read_ids(name, value, max_model_len)
    raise wrong_type(name, "a string or an array of token ids", value)


def _read_ids(name: str, items: list[Any], max_model_len: int) -> tuple[int, ...]:
    if not items:
        raise empty_array(name)
    if len(items) >= max_model_len:
        raise ContextLengthExceededError(
            f"This model's context holds {max_model_len} tokens, one of them for the answer at "
            f"least, but '{name}' has {len(items)} tokens. Please shorten the prompt.",
            param=name,
        )
    token_id = Integer(0)
    return tuple(token_id.read(f"{name}[{i}]", item) for i, item in enumerate(items))


def chat_prompt(messages: Sequence[ChatMessage], tokenizer: Tokenizer, limit: int) -> list[int]:
    """Return a conversation's prompt. Raises ContextLengthExceededError cheaply for long texts."""
    least = sum(tokenizer.min_tokens(message.text.strip(), limit) for message in messages)
    if least >= limit:
        raise too_long(f"at least {least}", limit, "messages")
    prompt = render_prompt(messages, tokenizer)
    if len(prompt) >= limit:
        raise too_long(str(len(prompt)), limit, "messages")
    return prompt


def text_prompt(
    name: str, prompt: str | tuple[int, ...], tokenizer: Tokenizer, limit: int
) -> list[int]:
    """Return text or token ids after one begin token. Raises as `chat_prompt` does."""
    if isinstance(prompt, str):
        least = tokenizer.min_tokens(prompt, limit)
        if least >= limit:
            raise too_long(f"at least {least}", limit, name)
        try:
            ids = tokenizer.encode(prompt)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{name}: {error.message}", param=name) from error
    else:
        ids = list(prompt)
        check_ids(name, ids, tokenizer.num_text_tokens)
    if ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    if len(ids) >= limit:
        raise too_long(str(len(ids)), limit, name)
    return ids


def check_ids(name: str, ids: Sequence[int], num_text_tokens: int) -> None:
    """Raise InvalidRequestError for the first id that is outside the vocabulary."""
    for place, token_id in enumerate(ids):
        if not 0 <= token_id < num_text_tokens:
            raise InvalidRequestError(
                f"Invalid '{name}[{place}]': token id {token_id} is outside the vocabulary. "
                f"Expected an id from 0 to {num_text_tokens - 1}.",
                param=f"{name}[{place}]",
                code="invalid_value",
            )


def too_long(num_prompt_tokens: str, limit: int, param: str) -> ContextLengthExceededError:
    """Return the error for a prompt that leaves no room for an answer."""
    what = "the messages have" if param == "messages" else f"'{param}' has"
    return ContextLengthExceededError(
        f"This model's context holds {limit} tokens, one of them for the answer at least, but "
        f"{what} {num_prompt_tokens} tokens. Please shorten the {param.partition('[')[0]}.",
        param=param,
    )


def resolve_logit_bias(bias: Mapping[str, float], tokenizer: Tokenizer) -> dict[int, float]:
    """Return biases by token id. A key of digits is an id; other text biases all its tokens."""
    resolved: dict[int, float] = {}
    for key, value in bias.items():
        if key.isascii() and key.isdecimal():
            ids: Sequence[int] = [_token_id(key, tokenizer.num_text_tokens)]
        else:
            ids = tokenizer.encode(key)
        if not ids:
            raise InvalidRequestError(
                "Invalid 'logit_bias': an empty key names no token. Expected a token id or text.",
                param="logit_bias",
                code="invalid_value",
            )
        resolved.update(dict.fromkeys(ids, value))
    return resolved


def _token_id(key: str, num_text_tokens: int) -> int:
    if len(key) > len(str(num_text_tokens)) or int(key) >= num_text_tokens:
        raise InvalidRequestError(
            f"Invalid 'logit_bias': token id {key[:20]} is outside the vocabulary. "
            f"Expected an id from 0 to {num_text_tokens - 1}.",
            param="logit_bias",
            code="invalid_value",
        )
    return int(key)
