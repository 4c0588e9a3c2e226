"""The shape of a Gemma 3n text decoder, read from an HF `config.json` or from GGUF metadata.

Field names are HF's. Both constructors end in `check_config`, so that a `Gemma3nTextConfig` from a
file is consistent and nothing behind it checks again. Pure data: no tensor is read here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from nestling.errors import ModelFileError
from nestling.model.fields import Fields, is_list

SLIDING = "sliding_attention"
FULL = "full_attention"
_HF_MODEL_TYPES = ("gemma3n", "gemma3n_text")
_GGUF_ARCHITECTURE = "gemma3n"
_MAX_LAYERS = 1024  # a lying header must not make us allocate
_DEFAULT_PERIOD = 5  # every fifth layer attends to everything
_DEFAULT_SPARSE_LAYERS = 10
_DEFAULT_SPARSITY = 0.95
# Gemma 3n has 262,144 text ids and 256 for images and audio. Some GGUF converters pad the per-layer
# table with zero rows up to the full vocabulary; the text ids are still these.
_PADDED_VOCAB_SIZE = 262_400
_TEXT_VOCAB_SIZE = 262_144


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
    max_position_embeddings: int = 32_768
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float | None = 30.0
    eos_token_ids: tuple[int, ...] = (1,)
    bos_token_id: int = 2
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


def config_from_hf(raw: Mapping[str, object], path: object) -> Gemma3nTextConfig:
    """The text configuration of a parsed `config.json`, multimodal or text only.

    Reads old (`rope_theta`, `rope_local_base_freq`) and new (`rope_parameters`) rope keys. Raises
    ModelFileError naming an unknown architecture, a missing key or a bad value.
    """
    model_type = raw.get("model_type")
    if model_type not in _HF_MODEL_TYPES:
        architectures = raw.get("architectures")
        raise ModelFileError(
            path, f"model_type is {model_type!r} (architectures {architectures!r}), not gemma3n"
        )
    outer = Fields(raw, path)
    is_multimodal = model_type == "gemma3n"
    text = outer.section("text_config", is_required=True) if is_multimodal else outer
    _refuse_unknown_features(text)
    num_layers = text.integer("num_hidden_layers", maximum=_MAX_LAYERS)
    sparsity = text.numbers("activation_sparsity_pattern", num_layers)
    layer_types = text.strings("layer_types")
    rope_theta, rope_local_base_freq = _hf_rope(text)
    config = Gemma3nTextConfig(
        vocab_size=text.integer("vocab_size"),
        vocab_size_per_layer_input=text.integer("vocab_size_per_layer_input"),
        hidden_size=text.integer("hidden_size"),
        hidden_size_per_layer_input=text.integer("hidden_size_per_layer_input"),
        num_hidden_layers=num_layers,
        intermediate_size=text.integers("intermediate_size", num_layers),
        num_attention_heads=text.integer("num_attention_heads"),
        num_key_value_heads=text.integer("num_key_value_heads"),
        head_dim=text.integer("head_dim", minimum=2),
        layer_types=layer_types or _periodic_layer_types(num_layers, _DEFAULT_PERIOD),
        sliding_window=text.integer("sliding_window"),
        num_kv_shared_layers=text.integer("num_kv_shared_layers", minimum=0),
        activation_sparsity_pattern=sparsity or _default_sparsity(num_layers),
        laurel_rank=text.integer("laurel_rank"),
        altup_num_inputs=text.integer("altup_num_inputs", default=4),
        altup_active_idx=text.integer("altup_active_idx", minimum=0, default=0),
        altup_correct_scale=text.boolean("altup_correct_scale", default=True),
        rope_theta=rope_theta,
        rope_local_base_freq=rope_local_base_freq,
        max_position_embeddings=text.integer("max_position_embeddings", default=32_768),
        rms_norm_eps=text.number("rms_norm_eps", default=1e-6),
        final_logit_softcapping=text.optional_number("final_logit_softcapping", default=30.0),
        eos_token_ids=_hf_eos(outer, text),
        bos_token_id=text.integer("bos_token_id", minimum=0, default=2),
    )
    check_config(config, path)
    return config


def _refuse_unknown_features(text: Fields) -> None:
    """Refuses what a config may ask for and this decoder does not do."""
    for key, expected in (
        ("hidden_activation", "gelu_pytorch_tanh"),
        ("attention_bias", False),
        ("tie_word_embeddings", True),
        ("rope_scaling", None),
    ):
        if text.values.get(key, expected) != expected:
            text.bad(key, f"{expected!r}")


def _hf_rope(text: Fields) -> tuple[float, float]:
    """Bases of full and sliding layers. `rope_parameters`, if there, wins over the old keys."""
    bases = []
    parameters = text.section("rope_parameters")
    old_keys = ((FULL, "rope_theta", 1e6), (SLIDING, "rope_local_base_freq", 1e4))
    for layer_type, old_key, default in old_keys:
        section = parameters.section(layer_type)
        if section.values.get("rope_type", "default") != "default":
            section.bad("rope_type", "'default'")
        bases.append(section.number("rope_theta", default=text.number(old_key, default=default)))
    return bases[0], bases[1]


def _hf_eos(outer: Fields, text: Fields) -> tuple[int, ...]:
    """End-of-sequence ids of both levels of the file, first seen first."""
    ids = [*outer.token_ids("eos_token_id"), *text.token_ids("eos_token_id")]
    return tuple(dict.fromkeys(ids)) or (1,)


def config_from_gguf(
    metadata: Mapping[str, object], tensor_shapes: Mapping[str, tuple[int, ...]], path: object
) -> Gemma3nTextConfig:
    """The configuration of a GGUF file: llama.cpp's keys of every age and ollama's.

    `tensor_shapes` are [out, in] by checkpoint name; they give the vocabulary sizes and the LAuReL
    rank, for which GGUF has no key. Raises ModelFileError like `config_from_hf`.
    """
    architecture = metadata.get("general.architecture")
    if architecture != _GGUF_ARCHITECTURE:
        raise ModelFileError(path, f"general.architecture is {architecture!r}, not gemma3n")
    fields = Fields(metadata, path, prefix="gemma3n.")
    num_layers = fields.integer("block_count", maximum=_MAX_LAYERS)
    pattern, multipliers = _gguf_sparsity(fields, num_layers)
    vocab_size = _rows("embed_tokens.weight", tensor_shapes, path)
    per_layer_rows = _rows("embed_tokens_per_layer.weight", tensor_shapes, path)
    if per_layer_rows == _PADDED_VOCAB_SIZE:
        per_layer_rows = _TEXT_VOCAB_SIZE
    # Nestling's own files are padded alike and say how many rows are meant.
    per_layer_rows = fields.integer(
        "vocab_size_per_layer_input", maximum=per_layer_rows, default=per_layer_rows
    )
    config = Gemma3nTextConfig(
        vocab_size=vocab_size,
        vocab_size_per_layer_input=per_layer_rows,
        hidden_size=fields.integer("embedding_length"),
        hidden_size_per_layer_input=fields.integer("embedding_length_per_layer_input"),
        num_hidden_layers=num_layers,
        intermediate_size=fields.integers("feed_forward_length", num_layers),
        num_attention_heads=fields.uniform_integer("attention.head_count", num_layers),
        num_key_value_heads=fields.uniform_integer("attention.head_count_kv", num_layers),
        head_dim=fields.integer("attention.key_length", "head_dim", minimum=2),
        layer_types=_gguf_layer_types(fields, num_layers),
        sliding_window=fields.integer("attention.sliding_window"),
        num_kv_shared_layers=fields.integer("attention.shared_kv_layers", minimum=0),
        activation_sparsity_pattern=pattern,
        activation_std_multipliers=multipliers,
        laurel_rank=_rows("layers.0.laurel.linear_left.weight", tensor_shapes, path),
        altup_num_inputs=fields.integer("altup.num_inputs", default=4),
        altup_active_idx=fields.integer("altup.active_idx", minimum=0, default=0),
        altup_correct_scale=fields.boolean("altup.correct_scale", default=True),
        rope_theta=fields.number("rope.freq_base", default=1e6),
        rope_local_base_freq=fields.number(
            "rope.freq_base_swa", "rope.freq_base_local", default=1e4
        ),
        max_position_embeddings=fields.integer("context_length"),
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon", default=1e-6),
        final_logit_softcapping=fields.optional_number("final_logit_softcapping", default=30.0),
        eos_token_ids=_gguf_eos(metadata, path),
        bos_token_id=Fields(metadata, path).integer(
            "tokenizer.ggml.bos_token_id", minimum=0, default=2
        ),
    )
    check_config(config, path)
    return config


def _rows(name: str, tensor_shapes: Mapping[str, tuple[int, ...]], path: object) -> int:
    shape = tensor_shapes.get(name)
    if not shape:
        raise ModelFileError(path, "missing", tensor=name)
    return shape[0]


def _gguf_sparsity(
    fields: Fields, num_layers: int
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Fractions and the multipliers they stand for. The file says -inf where a layer is dense."""
    scales = fields.numbers("activation_sparsity_scale", num_layers)
    if scales is None:
        return _default_sparsity(num_layers), None
    fractions = tuple(0.0 if s == -math.inf else NormalDist().cdf(s) for s in scales)
    return fractions, scales


def _gguf_layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """From a bool for each layer (true: sliding), one bool for all, a period, or the default."""
    key = "attention.sliding_window_pattern"
    pattern = fields.get(key)
    if is_list(pattern) or isinstance(pattern, bool | np.bool_):
        flags = fields.booleans(key, num_layers)
        return tuple(SLIDING if is_sliding else FULL for is_sliding in flags)
    return _periodic_layer_types(num_layers, fields.integer(key, default=_DEFAULT_PERIOD))


def _gguf_eos(metadata: Mapping[str, object], path: object) -> tuple[int, ...]:
    """Every end-of-generation id the file states, first seen first."""
    fields = Fields(metadata, path, prefix="tokenizer.ggml.")
    keys = ("eos_token_id", "eos_token_ids", "eot_token_id")
    return tuple(dict.fromkeys(i for key in keys for i in fields.token_ids(key))) or (1,)


def _periodic_layer_types(num_layers: int, period: int) -> tuple[str, ...]:
    return tuple(FULL if (i + 1) % period == 0 else SLIDING for i in range(num_layers))


def _default_sparsity(num_layers: int) -> tuple[float, ...]:
    """HF's default: the first ten layers, if the model has more than ten."""
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
        ("rms_norm_eps", config.rms_norm_eps > 0, "above 0"),
        ("final_logit_softcapping", cap is None or cap > 0, "above 0 or null"),
        ("bos_token_id", config.bos_token_id < config.vocab_size, "under vocab_size"),
        ("eos_token_ids", max(config.eos_token_ids) < config.vocab_size, "under vocab_size"),
    ]
