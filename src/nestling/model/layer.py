"""One decoder layer: its weights and its two halves.

`LayerRunner.enter` predicts the AltUp inputs, projects q, k and v, and stores keys and values.
`LayerRunner.leave` does the rest. They are apart because tokens without wanted logits need only the
first half of the last layer that owns keys and values. Formulas: docs/model.md, "The forward step".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestling.model.config import Gemma3nTextConfig
from nestling.model.kernels import Kernels, PackedWeight
from nestling.model.kv_cache import KVCache
from nestling.model.ops import Array, gaussian_topk, gelu_tanh, rms_norm, rotate
from nestling.model.step import LayerTokens
from nestling.model.tensors import TensorSource


@dataclass(frozen=True, eq=False, slots=True)
class AltUpWeights:
    """The router of AltUp, and the coefficients of its inputs."""

    modality_router: PackedWeight
    router_norm: Array
    """[hidden_size], already divided by hidden_size for the router."""
    prediction_coefs: PackedWeight
    correction_coefs: PackedWeight
    correct_output_scale: Array | None
    """[hidden_size]"""


@dataclass(frozen=True, eq=False, slots=True)
class LayerWeights:
    """Weights of one layer. Matrices with the same input are packed as one."""

    altup: AltUpWeights
    input_layernorm: Array
    heads_proj: PackedWeight
    """q_proj, with k_proj and v_proj below it if the layer owns keys and values."""
    heads_norm: Array
    """[num_heads of heads_proj, head_dim]: q_norm, k_norm, and ones for the values."""
    o_proj: PackedWeight
    post_attention_layernorm: Array
    laurel_left: PackedWeight
    laurel_right: PackedWeight
    post_laurel_norm: Array
    pre_feedforward_layernorm: Array
    gate_up_proj: PackedWeight
    down_proj: PackedWeight
    post_feedforward_layernorm: Array
    per_layer_input_gate: PackedWeight
    per_layer_projection: PackedWeight
    post_per_layer_input_norm: Array


class WeightLoader:
    """Packs the matrices of a source one at a time, and keeps no float32 copy."""

    def __init__(
        self, tensors: TensorSource, shapes: Mapping[str, tuple[int, ...]], kernels: Kernels
    ) -> None:
        self._tensors = tensors
        self._shapes = shapes
        self._kernels = kernels
        self.num_matrix_bytes = 0
        """Memory of the packed matrices so far."""

    def vector(self, name: str) -> Array:
        """Return the tensor as it is."""
        tensor = self._tensors.tensor(name)
        assert tensor.shape == self._shapes[name], (name, tensor.shape, self._shapes[name])
        return tensor

    def matrix(self, *names: str) -> PackedWeight:
        """Return the matrices packed as one, one below the other."""
        parts = [self.vector(name) for name in names]
        packed = self._kernels.pack(parts[0] if len(parts) == 1 else np.concatenate(parts))
        self.num_matrix_bytes += packed.nbytes
        return packed


def load_layer(loader: WeightLoader, config: Gemma3nTextConfig, layer_idx: int) -> LayerWeights:
    """Pack the weights of layer `layer_idx`."""
    at = f"layers.{layer_idx}."
    heads_proj, heads_norm = _load_heads(loader, config, layer_idx)
    return LayerWeights(
        altup=_load_altup(loader, config, at + "altup."),
        input_layernorm=loader.vector(at + "input_layernorm.weight"),
        heads_proj=heads_proj,
        heads_norm=heads_norm,
        o_proj=loader.matrix(at + "self_attn.o_proj.weight"),
        post_attention_layernorm=loader.vector(at + "post_attention_layernorm.weight"),
        laurel_left=loader.matrix(at + "laurel.linear_left.weight"),
        laurel_right=loader.matrix(at + "laurel.linear_right.weight"),
        post_laurel_norm=loader.vector(at + "laurel.post_laurel_norm.weight"),
        pre_feedforward_layernorm=loader.vector(at + "pre_feedforward_layernorm.weight"),
        gate_up_proj=loader.matrix(at + "mlp.gate_proj.weight", at + "mlp.up_proj.weight"),
        down_proj=loader.matrix(at + "mlp.down_proj.weight"),
        post_feedforward_layernorm=loader.vector(at + "post_feedforward_layernorm.weight"),
        per_layer_input_gate=loader.matrix(at + "per_layer_input_gate.weight"),
        per_layer_projection=loader.matrix(at + "per_layer_projection.weight"),
        post_per_layer_input_norm=loader.vector(at + "post_per_layer_input_norm.weight"),
    )


def _load_altup(loader: WeightLoader, config: Gemma3nTextConfig, at: str) -> AltUpWeights:
    has_scale = config.altup_correct_scale
    return AltUpWeights(
        modality_router=loader.matrix(at + "modality_router.weight"),
        router_norm=loader.vector(at + "router_norm.weight") / np.float32(config.hidden_size),
        prediction_coefs=loader.matrix(at + "prediction_coefs.weight"),
        correction_coefs=loader.matrix(at + "correction_coefs.weight"),
        correct_output_scale=loader.vector(at + "correct_output_scale") if has_scale else None,
    )


def _load_heads(
    loader: WeightLoader, config: Gemma3nTextConfig, layer_idx: int
) -> tuple[PackedWeight, Array]:
    at = f"layers.{layer_idx}.self_attn."
    q_norm = np.tile(loader.vector(at + "q_norm.weight"), (config.num_attention_heads, 1))
    if layer_idx >= config.first_kv_shared_layer:
        return loader.matrix(at + "q_proj.weight"), q_norm
    k_norm = np.tile(loader.vector(at + "k_norm.weight"), (config.num_key_value_heads, 1))
    names = [at + f"{letter}_proj.weight" for letter in "qkv"]
    return loader.matrix(*names), np.concatenate((q_norm, k_norm, np.ones_like(k_norm)))


@dataclass(frozen=True, eq=False, slots=True)
class EnteredTokens:
    """The tokens of a step halfway through a layer."""

    predictions: Array
    """[num_tokens, altup_num_inputs, hidden_size]"""
    normed: Array
    """[num_tokens, hidden_size], the active prediction after input_layernorm."""
    q: Array
    """[num_tokens, num_attention_heads, head_dim], normed and rotated."""

    def take(self, rows: NDArray[np.int32]) -> "EnteredTokens":
        """Return these tokens only."""
        return EnteredTokens(self.predictions[rows], self.normed[rows], self.q[rows])


class LayerRunner:
    """The arithmetic of one layer over weights that it does not change."""

    def __init__(
        self, config: Gemma3nTextConfig, layer_idx: int, weights: LayerWeights, kernels: Kernels
    ) -> None:
        self._weights = weights
        self._kernels = kernels
        self._eps = config.rms_norm_eps
        self._active = config.altup_active_idx
        self._num_heads = config.num_attention_heads
        self._num_kv_heads = config.num_key_value_heads
        self._head_dim = config.head_dim
        self._intermediate_size = config.intermediate_size[layer_idx]
        self._std_multiplier = config.activation_std_multiplier(layer_idx)
        self._owns_kv = layer_idx < config.first_kv_shared_layer
        self._kv_source = config.kv_source_layer(layer_idx)

    def enter(self, altup_inputs: Array, rows: LayerTokens, cache: KVCache) -> EnteredTokens:
        """Return queries of AltUp inputs [num_tokens, altup_num_inputs, hidden_size].

        Keys and values go into the cache, if this layer owns any.
        """
        predictions = self._altup_predict(altup_inputs)
        normed = rms_norm(predictions[:, self._active], self._weights.input_layernorm, self._eps)
        heads = self._kernels.linear(normed, self._weights.heads_proj)
        heads = heads.reshape(len(heads), -1, self._head_dim)
        heads = rms_norm(heads, self._weights.heads_norm, self._eps)
        if not self._owns_kv:
            return EnteredTokens(predictions, normed, rotate(heads, rows.cos, rows.sin))
        first_value = self._num_heads + self._num_kv_heads
        rotated = rotate(heads[:, :first_value], rows.cos, rows.sin)
        own = rows.cache.own
        cache.keys[self._kv_source][own] = rotated[:, self._num_heads :]
        cache.values[self._kv_source][own] = heads[:, first_value:]
        return EnteredTokens(
            predictions, normed, np.ascontiguousarray(rotated[:, : self._num_heads])
        )

    def leave(
        self, entered: EnteredTokens, rows: LayerTokens, cache: KVCache, per_layer_input: Array
    ) -> Array:
        """Return the new AltUp inputs.

        `per_layer_input` is [num_tokens, hidden_size_per_layer_input].
        """
        predictions = entered.predictions
        active = predictions[:, self._active]
        hidden_states = self._attention(entered.q, rows, cache)
        hidden_states += active
        hidden_states += self._laurel(entered.normed)
        hidden_states *= math.sqrt(0.5)
        hidden_states += self._mlp(hidden_states)
        return self._altup_correct(predictions, hidden_states, per_layer_input)

    def _altup_predict(self, altup_inputs: Array) -> Array:
        """Return each AltUp input plus a mix of all, with coefficients of the active one."""
        num_tokens, num_inputs, _ = altup_inputs.shape
        modalities = self._altup_router(altup_inputs[:, self._active])
        coefs = self._kernels.linear(modalities, self._weights.altup.prediction_coefs)
        # One small product a token, so that its bits are its own. coefs[t, o, i]: out o from in i.
        predictions: Array = coefs.reshape(num_tokens, num_inputs, num_inputs) @ altup_inputs
        predictions += altup_inputs
        return predictions

    def _altup_router(self, x: Array) -> Array:
        """Return [num_tokens, altup_num_inputs] in (-1, 1) for x [num_tokens, hidden_size]."""
        altup = self._weights.altup
        normed = rms_norm(x, altup.router_norm, self._eps)
        modalities = self._kernels.linear(normed, altup.modality_router)
        return np.tanh(modalities, out=modalities)

    def _attention(self, q: Array, rows: LayerTokens, cache: KVCache) -> Array:
        keys, values = cache.keys[self._kv_source], cache.values[self._kv_source]
        seen = rows.cache
        slots = seen.slots
        if keys.dtype != np.float32:  # the kernels take float32: widen the rows that are seen
            keys, values = keys[slots].astype(np.float32), values[slots].astype(np.float32)
            slots = np.arange(len(slots))
        out = self._kernels.attention(q, keys, values, slots, seen.begin, seen.end)
        out = self._kernels.linear(out.reshape(len(q), -1), self._weights.o_proj)
        return rms_norm(out, self._weights.post_attention_layernorm, self._eps)

    def _laurel(self, normed: Array) -> Array:
        """Return the learned augmented residual: x plus a low-rank view of x."""
        low_rank = self._kernels.linear(normed, self._weights.laurel_left)
        out = self._kernels.linear(low_rank, self._weights.laurel_right)
        out = rms_norm(out, self._weights.post_laurel_norm, self._eps)
        out += normed
        return out

    def _mlp(self, x: Array) -> Array:
        """Return the gated feed-forward between its two norms. Sparse layers cut the gate first."""
        normed = rms_norm(x, self._weights.pre_feedforward_layernorm, self._eps)
        gate_up = self._kernels.linear(normed, self._weights.gate_up_proj)
        gate = gate_up[:, : self._intermediate_size]
        if self._std_multiplier is not None:
            gate = gaussian_topk(gate, self._std_multiplier)
        activations = gelu_tanh(gate)
        activations *= gate_up[:, self._intermediate_size :]
        out = self._kernels.linear(activations, self._weights.down_proj)
        return rms_norm(out, self._weights.post_feedforward_layernorm, self._eps)

    def _altup_correct(self, predictions: Array, activated: Array, per_layer_input: Array) -> Array:
        """Return the predictions moved by the active one's error, plus the per-layer input."""
        altup = self._weights.altup
        coefs = self._kernels.linear(self._altup_router(activated), altup.correction_coefs)
        coefs += 1
        innovation = activated - predictions[:, self._active]
        altup_inputs: Array = coefs[:, :, None] * innovation[:, None, :]
        altup_inputs += predictions
        first = np.ascontiguousarray(altup_inputs[:, self._active])
        if altup.correct_output_scale is not None:
            first = first * altup.correct_output_scale
        gate = gelu_tanh(self._kernels.linear(first, self._weights.per_layer_input_gate))
        gate *= per_layer_input
        update = self._kernels.linear(gate, self._weights.per_layer_projection)
        update = rms_norm(update, self._weights.post_per_layer_input_norm, self._eps)
        altup_inputs[:, 1:] += update[:, None, :]
        return altup_inputs
