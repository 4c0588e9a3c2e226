"""The model behind the loop: a small protocol, and Gemma 3n's decoder with its KV cache behind it.

A runner computes; which tokens, positions and slots is said by the batch alone.
"""

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nestling.engine.config import EngineConfig
from nestling.errors import InvalidRequestError
from nestling.model.batch import ForwardBatch
from nestling.model.config import Gemma3nTextConfig
from nestling.model.decoder import Decoder
from nestling.model.kernels import NativeKernels
from nestling.model.kv_cache import KVCache
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
        """Blocks of the KV cache."""
        ...

    @property
    def block_size(self) -> int:
        """Tokens in a block."""
        ...

    @property
    def rows_per_step(self) -> int:
        """Rows that a step may compute without stalling the streams that wait for it."""
        ...

    def execute(self, batch: ForwardBatch) -> Logits:
        """f32 [num_logit_rows, vocab_size]; changes only the cache slots that the batch names."""
        ...


LoadRunner = Callable[[EngineConfig], ModelRunner]
"""Builds the runner of an engine; raises `ModelFileError`."""


class DecoderRunner:
    """Gemma 3n's decoder over a KV cache of `num_blocks * block_size` slots."""

    def __init__(
        self, decoder: Decoder, *, max_model_len: int, num_blocks: int, block_size: int
    ) -> None:
        self._decoder = decoder
        self._lock = threading.Lock()
        """The decoder computes one batch at a time."""
        self._cache = KVCache.allocate(decoder.config, num_blocks * block_size)
        self.vocab_size = decoder.config.vocab_size
        self.num_text_tokens = decoder.config.num_text_tokens
        self.max_model_len = max_model_len
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.rows_per_step = rows_per_step(decoder.config)
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
        slots = np.arange(num_tokens, dtype=np.int64)
        rows = slots.astype(np.int32)
        batch = ForwardBatch(
            input_ids=token_ids,
            positions=rows,
            slot_mapping=slots,
            query_start_loc=np.asarray((0, num_tokens), np.int32),
            context_slots=(slots,),
            logit_rows=rows,
        )
        with self._lock:
            return self._decoder.forward(batch, KVCache.allocate(self._decoder.config, num_tokens))


def load_runner(config: EngineConfig) -> DecoderRunner:
    """Load the checkpoint and pack its weights; raises `ModelFileError`."""
    checkpoint = load_checkpoint(Path(config.model))
    model = checkpoint.config
    kernels = NativeKernels(config.num_threads or num_usable_cores(), config.dtype)
    max_model_len = min(
        config.max_model_len or model.max_position_embeddings, model.max_position_embeddings
    )
    return DecoderRunner(
        Decoder(model, checkpoint.tensors, kernels),
        max_model_len=max_model_len,
        num_blocks=num_cache_blocks(config, model, max_model_len),
        block_size=config.block_size,
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


def num_cache_blocks(config: EngineConfig, model: Gemma3nTextConfig, max_model_len: int) -> int:
    """`num_blocks` if set; else whole contexts as far as `kv_cache_bytes` goes, one at least."""
    if config.num_blocks is not None:
        return config.num_blocks
    blocks_per_seq = -(-max_model_len // config.block_size)
    affordable = config.kv_cache_bytes // (KVCache.bytes_per_slot(model) * config.block_size)
    return max(blocks_per_seq, min(affordable, blocks_per_seq * config.max_num_seqs))
