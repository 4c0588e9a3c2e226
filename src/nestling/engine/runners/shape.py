"""Tells what a model's sizes mean for an engine: its cache, its steps, the ids it takes."""

import numpy as np
from numpy.typing import NDArray

from nestling.engine.config import EngineConfig
from nestling.engine.kv.sizes import CacheShape
from nestling.errors import InvalidRequestError
from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig
from nestling.model.kv_cache import KVDtype, kv_bytes_per_token


def cache_shape(
    config: EngineConfig, model: Gemma3nTextConfig, kv_dtype: KVDtype, rows: int
) -> CacheShape:
    """Return what the model's KV cache costs and must hold; `rows` of a step unless configured."""
    context = model.max_position_embeddings
    return CacheShape(
        full_bytes_per_token=kv_bytes_per_token(model, FULL, kv_dtype),
        sliding_bytes_per_token=kv_bytes_per_token(model, SLIDING, kv_dtype),
        sliding_window=model.sliding_window,
        max_model_len=min(config.max_model_len or context, context),
        max_rows=config.max_num_batched_tokens or max(rows, config.max_num_seqs),
    )


def check_token_ids(token_ids: NDArray[np.int32], vocab_size: int, max_model_len: int) -> None:
    """Raises InvalidRequestError unless these ids can be scored."""
    num_tokens = len(token_ids)
    if not 1 <= num_tokens <= max_model_len:
        raise InvalidRequestError(
            f"token_ids: expected 1 to {max_model_len} ids, got {num_tokens}", param="token_ids"
        )
    if token_ids.min() < 0 or token_ids.max() >= vocab_size:
        raise InvalidRequestError(
            f"token_ids: expected ids from 0 to {vocab_size - 1}, "
            f"got {token_ids.min()} to {token_ids.max()}",
            param="token_ids",
        )
