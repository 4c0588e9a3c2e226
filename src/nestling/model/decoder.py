"""Gemma 3n's text decoder over any batch of tokens: embeddings, AltUp inputs, layers, head.

It is the readable reference of the C++ core (`native/gemma3n.py`). A forward pass changes nothing
but the cache slots that its batch names. Formulas and tolerances: docs/model.md. It is not
thread-safe: one thread calls `forward`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nestling.model.batch import ForwardBatch
from nestling.model.config import Gemma3nTextConfig
from nestling.model.kernels import Kernels
from nestling.model.kv_cache import KVCache
from nestling.model.layer import LayerRunner, WeightLoader, load_layer
from nestling.model.names import EMBEDDING, HEAD, PER_LAYER_EMBEDDING, required_tensors
from nestling.model.ops import Array, match_magnitude, mean_square, rms_norm
from nestling.model.step import StepPlanner
from nestling.model.tensors import TensorSource

OnLayer = Callable[[int, Array], None]
"""Called after each layer with its index and the AltUp inputs of the next one.

These are [num_tokens, altup_num_inputs, hidden_size].
"""


class Decoder:
    """The decoder. It packs the weights once; rows of embeddings are read from `tensors`."""

    def __init__(self, config: Gemma3nTextConfig, tensors: TensorSource, kernels: Kernels) -> None:
        self.config = config
        self._tensors = tensors
        self._kernels = kernels
        self._planner = StepPlanner(config)
        loader = WeightLoader(tensors, required_tensors(config), kernels)
        extra_inputs = range(config.altup_num_inputs - 1)
        self._altup_projections = [
            loader.matrix(f"altup_projections.{i}.weight") for i in extra_inputs
        ]
        self._altup_unembed_projections = [
            loader.matrix(f"altup_unembed_projections.{i}.weight") for i in extra_inputs
        ]
        self._per_layer_model_projection = loader.matrix("per_layer_model_projection.weight")
        self._per_layer_projection_norm = loader.vector("per_layer_projection_norm.weight")
        self._norm = loader.vector("norm.weight")
        self._head = loader.matrix(EMBEDDING if config.tie_word_embeddings else HEAD)
        self._layers = [
            LayerRunner(config, i, load_layer(loader, config, i), kernels)
            for i in range(config.num_hidden_layers)
        ]
        self.weight_bytes_per_token = loader.num_matrix_bytes
        """Bytes of matrices that a pass with one token reads, without rows of embeddings."""

    def forward(
        self, batch: ForwardBatch, cache: KVCache, on_layer: OnLayer | None = None
    ) -> Array:
        """Return the soft-capped logits [num_logit_rows, vocab_size] of `batch.logit_rows`.

        Tokens without logits stop at the last layer that owns keys and values. From there only the
        logit rows run on, and `on_layer` sees those. This is exact (docs/model.md).
        """
        altup_inputs, per_layer_inputs = self._embed(batch)
        plan = self._planner.plan(batch)
        logit_rows = batch.logit_rows
        last_owner = self.config.first_kv_shared_layer - 1
        for i, layer in enumerate(self._layers):
            rows = plan[self.config.layer_types[i]]
            entered = layer.enter(altup_inputs, rows, cache)
            if i == last_owner and len(logit_rows) < len(altup_inputs):
                plan = {layer_type: rows.take(logit_rows) for layer_type, rows in plan.items()}
                rows = plan[self.config.layer_types[i]]
                entered = entered.take(logit_rows)
                per_layer_inputs = per_layer_inputs[logit_rows]
            if not len(entered.q):
                break
            altup_inputs = layer.leave(entered, rows, cache, per_layer_inputs[:, i])
            if on_layer is not None:
                on_layer(i, altup_inputs)
        else:
            return self._compute_logits(altup_inputs)
        return np.empty((0, self.config.vocab_size), np.float32)

    def _embed(self, batch: ForwardBatch) -> tuple[Array, Array]:
        """Return AltUp inputs [num_tokens, altup_num_inputs, hidden_size] and per-layer inputs.

        The latter are [num_tokens, num_hidden_layers, hidden_size_per_layer_input].
        """
        config = self.config
        ids = batch.input_ids.astype(np.int64)
        embeddings = self._tensors.rows(EMBEDDING, ids) * config.hidden_size**0.5
        magnitude = np.sqrt(mean_square(embeddings))
        altup_inputs = np.empty((len(ids), config.altup_num_inputs, config.hidden_size), np.float32)
        altup_inputs[:, 0] = embeddings
        for i, projection in enumerate(self._altup_projections, start=1):
            projected = self._kernels.linear(embeddings, projection)
            altup_inputs[:, i] = match_magnitude(projected, magnitude)
        return altup_inputs, self._per_layer_inputs(ids, embeddings)

    def _per_layer_inputs(self, ids: NDArray[np.int64], embeddings: Array) -> Array:
        """Return for each layer the mean of the token's table row and its projected embedding."""
        config = self.config
        width = config.hidden_size_per_layer_input
        projected = self._kernels.linear(embeddings, self._per_layer_model_projection)
        projected *= config.hidden_size**-0.5
        projected = projected.reshape(len(ids), config.num_hidden_layers, width)
        out = rms_norm(projected, self._per_layer_projection_norm, config.rms_norm_eps)
        table_ids = np.where(ids < config.vocab_size_per_layer_input, ids, 0)
        looked_up = self._tensors.rows(PER_LAYER_EMBEDDING, table_ids)
        out += (looked_up * width**0.5).reshape(out.shape)
        out *= 0.5**0.5
        return out

    def _compute_logits(self, altup_inputs: Array) -> Array:
        """Return [num_tokens, vocab_size]: mean at equal magnitude, norm, head, soft cap."""
        config = self.config
        total = altup_inputs[:, 0].copy()
        magnitude = np.sqrt(mean_square(total))
        for i, projection in enumerate(self._altup_unembed_projections, start=1):
            projected = self._kernels.linear(np.ascontiguousarray(altup_inputs[:, i]), projection)
            total += match_magnitude(projected, magnitude)
        total /= config.altup_num_inputs
        logits = self._kernels.linear(rms_norm(total, self._norm, config.rms_norm_eps), self._head)
        cap = config.final_logit_softcapping
        if cap is not None:
            logits /= cap
            np.tanh(logits, out=logits)
            logits *= cap
        return logits
