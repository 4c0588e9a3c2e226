"""The model behind the loop, as a protocol.

A runner computes; the batch alone says which tokens, positions and blocks.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nestling.engine.config import EngineConfig
from nestling.engine.progress import EngineProgress
from nestling.model.batch import ForwardBatch

Logits = NDArray[np.float32]


class ModelRunner(Protocol):
    """Tells what the engine loop needs of a model. All calls come from the loop's thread."""

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

    @property
    def weight_bytes_per_token(self) -> int:
        """Bytes of weights that one decoded token reads."""
        ...

    @property
    def weight_bytes_read(self) -> int:
        """Bytes of weights that all steps have read, each matrix once a step; 0: not counted."""
        ...

    def part_seconds(self) -> dict[str, float]:
        """Seconds of the forward passes by part, since the start; empty if not measured."""
        ...

    def execute(self, batch: ForwardBatch) -> Logits:
        """f32 [num_logit_rows, num_text_tokens or more]; changes only the batch's cache slots.

        They may be overwritten by the next call.
        """
        ...

    def score(self, token_ids: NDArray[np.int32]) -> Logits:
        """f32 [num_tokens, vocab_size]: logits of every position, in a cache of their own.

        Callable from any thread beside `execute`. Raises InvalidRequestError for ids or lengths
        that the model does not take.
        """
        ...


LoadRunner = Callable[[EngineConfig, EngineProgress], ModelRunner]
"""Builds the runner of an engine; raises `ModelFileError`."""
