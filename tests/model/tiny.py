"""Small random Gemma 3n models with every feature live, the same bits on every machine.

Weights come from PCG64's raw 64-bit output by integer sums and one multiplication, so that stored
vectors stay valid without storing weights. HF's own initialisation would leave features dead (a
zero `correct_output_scale` switches the per-layer inputs off), hence the scales below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig
from nestling.model.names import required_tensors
from nestling.weights.checkpoint import Checkpoint

Array = NDArray[np.float32]

TINY = Gemma3nTextConfig(
    vocab_size=544,
    vocab_size_per_layer_input=512,
    hidden_size=128,
    hidden_size_per_layer_input=32,
    num_hidden_layers=10,
    intermediate_size=(256,) * 5 + (192,) * 5,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    layer_types=((SLIDING,) * 4 + (FULL,)) * 2,
    sliding_window=16,
    num_kv_shared_layers=5,
    activation_sparsity_pattern=(0.95,) * 3 + (0.0,) * 7,
    laurel_rank=16,
    max_position_embeddings=512,
)
# What llama.cpp hard-codes: 20 layers with keys and values, 10 sparse ones, LAuReL 64, width 256.
TINY_LLAMA_CPP = Gemma3nTextConfig(
    vocab_size=544,
    vocab_size_per_layer_input=512,
    hidden_size=256,
    hidden_size_per_layer_input=256,
    num_hidden_layers=25,
    intermediate_size=(512,) * 25,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    layer_types=((SLIDING,) * 4 + (FULL,)) * 5,
    sliding_window=16,
    num_kv_shared_layers=5,
    activation_sparsity_pattern=(0.95,) * 10 + (0.0,) * 15,
    laurel_rank=64,
    max_position_embeddings=512,
)


@dataclass(frozen=True)
class DictTensors:
    """A `TensorSource` over arrays in memory."""

    arrays: Mapping[str, Array]

    def names(self) -> Sequence[str]:
        return sorted(self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def tensor(self, name: str) -> Array:
        return self.arrays[name]

    def rows(self, name: str, index: NDArray[np.int64]) -> Array:
        return self.arrays[name][index]


def bell(bits: np.random.PCG64, shape: tuple[int, ...]) -> Array:
    """Values of mean 0 and variance 1: sums of four 16-bit numbers, near enough to Gaussian."""
    raw = np.atleast_1d(bits.random_raw(int(np.prod(shape))))
    sums = raw.astype("<u8").view("<u2").reshape(-1, 4).astype(np.int64).sum(axis=1)
    centred = (sums - 2 * 65535).astype(np.float32)
    scaled: Array = (centred * np.float32(np.sqrt(3) / 65536)).reshape(shape)
    return scaled


def random_weights(config: Gemma3nTextConfig, seed: int) -> dict[str, Array]:
    """All tensors of `required_tensors`, drawn in the order of their names."""
    bits = np.random.PCG64(seed)
    weights = {}
    for name, shape in sorted(required_tensors(config).items()):
        offset, scale = _offset_and_scale(name, shape)
        weights[name] = np.float32(offset) + bell(bits, shape) * np.float32(scale)
    return weights


def random_checkpoint(config: Gemma3nTextConfig, seed: int = 1) -> Checkpoint:
    """`random_weights` as if opened from a file."""
    tensors = DictTensors(random_weights(config, seed))
    return Checkpoint(Path("-"), config, tensors, None, (), "f32")


def _offset_and_scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if name.endswith("correct_output_scale"):
        return 1.0, 0.2
    if ".q_norm." in name or ".k_norm." in name:
        # Attention is unscaled: these factors alone keep its logits near 1.
        return shape[0] ** -0.25, 0.1 * shape[0] ** -0.25
    if len(shape) == 1:
        return 1.0, 0.1
    if "_coefs" in name:
        return 0.0, 0.1
    if "modality_router" in name:
        return 0.0, 6.0  # its input has been divided by hidden_size
    if "embed_tokens_per_layer" in name:
        return 0.0, 0.06
    return 0.0, float(shape[1]) ** -0.5


def hf_config(config: Gemma3nTextConfig) -> dict[str, object]:
    """What transformers' Gemma3nTextConfig takes and, in new style, writes to `config.json`."""
    return {
        "model_type": "gemma3n_text",
        "vocab_size": config.vocab_size,
        "vocab_size_per_layer_input": config.vocab_size_per_layer_input,
        "hidden_size": config.hidden_size,
        "hidden_size_per_layer_input": config.hidden_size_per_layer_input,
        "num_hidden_layers": config.num_hidden_layers,
        "intermediate_size": list(config.intermediate_size),
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "layer_types": list(config.layer_types),
        "sliding_window": config.sliding_window,
        "num_kv_shared_layers": config.num_kv_shared_layers,
        "activation_sparsity_pattern": list(config.activation_sparsity_pattern),
        "laurel_rank": config.laurel_rank,
        "altup_num_inputs": config.altup_num_inputs,
        "altup_active_idx": config.altup_active_idx,
        "altup_correct_scale": config.altup_correct_scale,
        "rope_parameters": {
            FULL: _rope(config.rope_theta, config.rope_scaling_factor),
            SLIDING: _rope(config.rope_local_base_freq, config.rope_local_scaling_factor),
        },
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "final_logit_softcapping": config.final_logit_softcapping,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "pad_token_id": 0,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _rope(theta: float, factor: float) -> dict[str, object]:
    section: dict[str, object] = {"rope_type": "default", "rope_theta": theta}
    return section if factor == 1 else section | {"rope_type": "linear", "factor": factor}


def token_ids(config: Gemma3nTextConfig, count: int, seed: int) -> list[int]:
    """Ids of the whole vocabulary, those without a per-layer row included."""
    raw = np.atleast_1d(np.random.PCG64(seed).random_raw(count))
    return [int(value) % config.vocab_size for value in raw]
