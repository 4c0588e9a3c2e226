"""The model behind the loop: a small protocol, and Gemma 3n's decoder with its KV cache behind it.

A runner computes; which tokens, positions and blocks is said by the batch alone.
"""

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nestling.engine.cache_size import CacheShape, num_cache_blocks
from nestling.engine.config import EngineConfig
from nestling.errors import InvalidRequestError
from nestling.model.batch import ForwardBatch
from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig
from nestling.model.decoder import Decoder
from nestling.model.kernels import Kernels, NativeKernels, NumpyKernels
from nestling.model.kv_cache import KVCache, KVDtype, kv_bytes_per_token
from nestling.model.names import required_tensors
from nestling.weights.checkpoint import load_checkpoint

Logits = NDArray[np.float32]
STEP_FLOPS = 2e11
"""Work of one step at most: a few seconds on two cores with float32 kernels."""


class ModelRunner(Protocol):
    """What the engine loop needs of a model. All calls come from the loop's thread."""

    @property
    def vocab_size(self) -> int:
        """Ids that may be input, and the width of the logits."""
        ...

    @property
    def num_text_tokens(self) -> int:
        """Ids below this may be sampled."""
        ...

    @property
    def max_model_len(self) -> int:
        """Positions of one sequence."""
        ...

    @property
    def num_blocks(self) -> int:
        """Blocks of the full layers' KV cache."""
        ...

    @property
    def num_sliding_blocks(self) -> int:
        """Blocks of the sliding layers' KV cache."""
        ...

    @property
    def block_size(self) -> int:
        """Tokens in a block of either."""
        ...

    @property
    def sliding_window(self) -> int:
        """Tokens that a sliding layer sees, the token itself included."""
        ...

    @property
    def max_rows(self) -> int:
        """Rows that one step may have."""
        ...

    def execute(self, batch: ForwardBatch) -> Logits:
        """f32 [num_logit_rows, vocab_size]; changes only the cache slots that the batch names."""
        ...


LoadRunner = Callable[[EngineConfig], ModelRunner]
"""Builds the runner of an engine; raises `ModelFileError`."""


class DecoderRunner:
    """Gemma 3n's decoder over a KV cache of two pools of blocks."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        max_model_len: int,
        num_blocks: int,
        num_sliding_blocks: int,
        block_size: int,
        max_rows: int,
        kv_dtype: KVDtype = "float32",
    ) -> None:
        self._decoder = decoder
        self._lock = threading.Lock()
        """The decoder computes one batch at a time."""
        self._kv_dtype = kv_dtype
        self._cache = KVCache.allocate(
            decoder.config, num_blocks * block_size, num_sliding_blocks * block_size, kv_dtype
        )
        self.vocab_size = decoder.config.vocab_size
        self.num_text_tokens = decoder.config.num_text_tokens
        self.sliding_window = decoder.config.sliding_window
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.num_sliding_blocks = num_sliding_blocks
        self.block_size = block_size
        self.max_rows = max_rows
        self.weight_bytes_per_token = decoder.weight_bytes_per_token

    def execute(self, batch: ForwardBatch) -> Logits:
        with self._lock:
            return self._decoder.forward(batch, self._cache)

    def score(self, token_ids: NDArray[np.int32]) -> Logits:
        """f32 [num_tokens, vocab_size]: logits of every position, in a cache of their own.

        Callable from any thread beside `execute`. Raises InvalidRequestError for ids or lengths
        that the model does not take.
        """
        num_tokens = len(token_ids)
        if not 1 <= num_tokens <= self.max_model_len:
            raise InvalidRequestError(
                f"token_ids: expected 1 to {self.max_model_len} ids, got {num_tokens}",
                param="token_ids",
            )
        if token_ids.min() < 0 or token_ids.max() >= self.vocab_size:
            raise InvalidRequestError(
                f"token_ids: expected ids from 0 to {self.vocab_size - 1}, "
                f"got {token_ids.min()} to {token_ids.max()}",
                param="token_ids",
            )
        rows = np.arange(num_tokens, dtype=np.int32)
        only_block = np.zeros((1, 1), np.int32)
        batch = ForwardBatch(
            input_ids=token_ids,
            positions=rows,
            query_start_loc=np.asarray((0, num_tokens), np.int32),
            block_size=num_tokens,
            full_block_table=only_block,
            sliding_block_table=only_block,
            logit_rows=rows,
        )
        config = self._decoder.config
        cache = KVCache.allocate(config, num_tokens, num_tokens, self._kv_dtype)
        with self._lock:
            return self._decoder.forward(batch, cache)


def load_runner(config: EngineConfig) -> DecoderRunner:
    """Load the checkpoint and pack its weights; raises `ModelFileError`, `SettingsError`."""
    checkpoint = load_checkpoint(Path(config.model))
    model = checkpoint.config
    kv_dtype: KVDtype = "float32" if config.kv_dtype == "auto" else config.kv_dtype
    shape = cache_shape(config, model, kv_dtype)
    num_blocks, num_sliding_blocks = num_cache_blocks(config, shape)
    return DecoderRunner(
        Decoder(model, checkpoint.tensors, make_kernels(config)),
        max_model_len=shape.max_model_len,
        num_blocks=num_blocks,
        num_sliding_blocks=num_sliding_blocks,
        block_size=config.block_size,
        max_rows=shape.max_rows,
        kv_dtype=kv_dtype,
    )


def make_kernels(config: EngineConfig) -> Kernels:
    """What the configured engine computes with."""
    if config.engine == "reference":
        return NumpyKernels()
    return NativeKernels(config.num_threads or num_usable_cores(), config.dtype)


def cache_shape(config: EngineConfig, model: Gemma3nTextConfig, kv_dtype: KVDtype) -> CacheShape:
    """What the model's KV cache costs and must hold."""
    rows = config.max_num_batched_tokens or max(rows_per_step(model), config.max_num_seqs)
    context = model.max_position_embeddings
    return CacheShape(
        full_bytes_per_token=kv_bytes_per_token(model, FULL, kv_dtype),
        sliding_bytes_per_token=kv_bytes_per_token(model, SLIDING, kv_dtype),
        sliding_window=model.sliding_window,
        max_model_len=min(config.max_model_len or context, context),
        max_rows=rows,
    )


def rows_per_step(model: Gemma3nTextConfig) -> int:
    """16 to 256 rows, so that the matrix products of a step stay within `STEP_FLOPS`."""
    shapes = required_tensors(model)
    del shapes["embed_tokens_per_layer.weight"]  # looked up, not multiplied
    num_weights = sum(math.prod(shape) for shape in shapes.values())
    return max(16, min(256, int(STEP_FLOPS / (2 * num_weights))))


def num_usable_cores() -> int:
    """Cores that this process may run on, which a container or taskset may have narrowed."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
