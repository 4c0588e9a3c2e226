"""The shape of a Gemma 3n text decoder: one frozen dataclass, and what makes it consistent.

Field names are HF's. `hf_config.py` and `gguf_config.py` read it from files; both end in
`check_config`, so that nothing behind them checks again. Pure data: no tensor is read here.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from nestling.errors import ModelFileError

SLIDING = "sliding_attention"
FULL = "full_attention"
MAX_LAYERS = 1024  # a lying header must not make us allocate
DEFAULT_PERIOD = 5  # every fifth layer attends to everything
_DEFAULT_SPARSE_LAYERS = 10
_DEFAULT_SPARSITY = 0.95


@dataclass(frozen=True, kw_only=True)
class Gemma3nTextConfig:
    """Everything the decoder must know besides the weights."""

    vocab_size: int
    vocab_size_per_layer_input: int
    """Rows of `embed_tokens_per_layer` that mean something; ids from here on use row 0."""
    hidden_size: int
    hidden_size_per_layer_input: int
    num_hidden_layers: int
    intermediate_size: tuple[int, ...]
    """[num_hidden_layers]; MatFormer slices differ by layer."""
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_types: tuple[str, ...]
    """[num_hidden_layers] of "sliding_attention" and "full_attention"."""
    sliding_window: int
    """A row of a sliding layer sees this many positions, its own included."""
    num_kv_shared_layers: int
    """The last so many layers have no keys and values of their own."""
    activation_sparsity_pattern: tuple[float, ...]
    """[num_hidden_layers], fraction of the gate that is cut to zero; 0 is dense."""
    laurel_rank: int
    altup_num_inputs: int = 4
    altup_active_idx: int = 0
    altup_correct_scale: bool = True
    rope_theta: float = 1e6
    """Of full layers."""
    rope_local_base_freq: float = 1e4
    """Of sliding layers."""
    rope_scaling_factor: float = 1.0
    """Full layers divide their angles by it (HF's "linear" rope scaling)."""
    rope_local_scaling_factor: float = 1.0
    """Sliding layers divide their angles by it."""
    max_position_embeddings: int = 32_768
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float | None = 30.0
    eos_token_ids: tuple[int, ...] = (1,)
    bos_token_id: int = 2
    tie_word_embeddings: bool = True
    """Whether the head is `embed_tokens` again; else it is the tensor `lm_head.weight`."""
    activation_std_multipliers: tuple[float, ...] | None = None
    """[num_hidden_layers] if the file states the multipliers (GGUF); None: from the pattern."""

    @property
    def num_text_tokens(self) -> int:
        """Ids from here on belong to images and audio and are never sampled."""
        return min(self.vocab_size, self.vocab_size_per_layer_input)

    @property
    def first_kv_shared_layer(self) -> int:
        """Layers from this one on read another layer's keys and values."""
        return self.num_hidden_layers - self.num_kv_shared_layers

    def is_sliding(self, layer_idx: int) -> bool:
        """Whether the layer sees only the last `sliding_window` positions."""
        return self.layer_types[layer_idx] == SLIDING

    def kv_source_layer(self, layer_idx: int) -> int:
        """The layer whose cache this one reads: itself, or the last owner of the same type."""
        owners = self.layer_types[: self.first_kv_shared_layer]
        if layer_idx < len(owners):
            return layer_idx
        return len(owners) - 1 - owners[::-1].index(self.layer_types[layer_idx])

    def activation_std_multiplier(self, layer_idx: int) -> float | None:
        """Standard deviations above its mean at which the layer cuts the gate; None: dense."""
        sparsity = self.activation_sparsity_pattern[layer_idx]
        if sparsity <= 0:
            return None
        if self.activation_std_multipliers is not None:
            return self.activation_std_multipliers[layer_idx]
        return std_multiplier(sparsity)


def std_multiplier(sparsity: float) -> float:
    """Inverse normal distribution function of `sparsity`, with torch's float32 rounding.

    torch computes sqrt(2) * erfinv(2p - 1) in float32, and 2p - 1 loses a bit: 0.95 gives
    1.6448535919 rather than the true 1.6448536270. Gemma 3n was trained with the former.
    """
    doubled = np.float32(2) * np.float32(sparsity) - np.float32(1)
    erfinv = np.float32(NormalDist().inv_cdf((float(doubled) + 1) / 2) / math.sqrt(2))
    return float(erfinv * np.float32(math.sqrt(2)))


def periodic_layer_types(num_layers: int, period: int) -> tuple[str, ...]:
    """Return the types of layers of which every `period`-th attends to everything."""
    return tuple(FULL if (i + 1) % period == 0 else SLIDING for i in range(num_layers))


def default_sparsity(num_layers: int) -> tuple[float, ...]:
    """Return HF's default pattern: the first ten layers, if the model has more than ten."""
    num_sparse = _DEFAULT_SPARSE_LAYERS if num_layers > _DEFAULT_SPARSE_LAYERS else 0
    return (_DEFAULT_SPARSITY,) * num_sparse + (0.0,) * (num_layers - num_sparse)


def check_config(config: Gemma3nTextConfig, path: object) -> None:
    """Raises ModelFileError naming the first key that contradicts another or makes no sense."""
    for key, is_good, expected in _rules(config):
        if not is_good:
            raise ModelFileError(path, f"{key} is {getattr(config, key)!r}, expected {expected}")


def _rules(config: Gemma3nTextConfig) -> list[tuple[str, bool, str]]:
    """(key, whether it is good, what it should be), in the order in which they are reported."""
    num_layers = config.num_hidden_layers
    cap = config.final_logit_softcapping
    one_each = f"one for each of {num_layers} layers"
    owner_types = set(config.layer_types[: max(config.first_kv_shared_layer, 0)])
    return [
        ("layer_types", len(config.layer_types) == num_layers, one_each),
        (
            "layer_types",
            set(config.layer_types) <= {SLIDING, FULL},
            f"only {SLIDING!r} or {FULL!r}",
        ),
        ("head_dim", config.head_dim % 2 == 0, "an even number"),
        (
            "num_attention_heads",
            config.num_attention_heads % config.num_key_value_heads == 0,
            f"a multiple of num_key_value_heads ({config.num_key_value_heads})",
        ),
        ("num_kv_shared_layers", config.num_kv_shared_layers < num_layers, f"under {num_layers}"),
        (
            "num_kv_shared_layers",
            set(config.layer_types) <= owner_types,
            "so few that each layer type is also among the layers before the shared ones",
        ),
        (
            "activation_sparsity_pattern",
            all(0 <= p < 1 for p in config.activation_sparsity_pattern),
            "fractions in [0, 1)",
        ),
        ("altup_num_inputs", config.altup_num_inputs <= 16, "at most 16"),
        (
            "altup_active_idx",
            config.altup_active_idx < config.altup_num_inputs,
            f"under altup_num_inputs ({config.altup_num_inputs})",
        ),
        ("rope_theta", config.rope_theta > 0, "above 0"),
        ("rope_local_base_freq", config.rope_local_base_freq > 0, "above 0"),
        ("rope_scaling_factor", config.rope_scaling_factor > 0, "above 0"),
        ("rope_local_scaling_factor", config.rope_local_scaling_factor > 0, "above 0"),
        ("rms_norm_eps", config.rms_norm_eps > 0, "above 0"),
        ("final_logit_softcapping", cap is None or cap > 0, "above 0 or null"),
        ("bos_token_id", config.bos_token_id < config.vocab_size, "under vocab_size"),
        ("eos_token_ids", max(config.eos_token_ids) < config.vocab_size, "under vocab_size"),
    ]
