"""The configuration of a GGUF file of the architecture `gemma3n`, from its metadata.

Every `gemma3n.` key is read, expected to have the one value that this decoder computes, or known to
change no answer. Any other is refused by name.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from nestling.errors import ModelFileError
from nestling.model.config import (
    DEFAULT_PERIOD,
    FULL,
    MAX_LAYERS,
    SLIDING,
    Gemma3nTextConfig,
    check_config,
    default_sparsity,
    periodic_layer_types,
)
from nestling.model.fields import Fields, is_list

_ARCHITECTURE = "gemma3n"
# Gemma 3n has 262,144 text ids and 256 for images and audio. Some GGUF converters pad the per-layer
# table with zero rows up to the full vocabulary; the text ids are still these.
_PADDED_VOCAB_SIZE = 262_400
_TEXT_VOCAB_SIZE = 262_144
_HEAD_SIZES = (
    "attention.value_length", "attention.key_length_swa", "attention.value_length_swa",
    "rope.dimension_count", "rope.dimension_count_swa",
)  # fmt: skip
"""Keys that must say `head_dim` again."""
_EXPECTED: dict[str, tuple[object, ...]] = {
    # llama.cpp scales sliding layers by the factor too, transformers does not: no right answer.
    "rope.scaling.type": ("none", "linear"),
    "rope.scaling.factor": (1, 0),  # llama.cpp takes 0 for 1
    "rope.scale_linear": (1, 0),
    "rope.scaling.attn_factor": (1,),
    "attention.scale": (1,),
    "attention.causal": (True,),
    "attn_logit_softcapping": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "pooling_type": (0,),
}
"""Keys that bear on the mathematics, and the values with which it is that of this decoder."""
_HARMLESS = frozenset(
    {
        "altup.lr_multiplier",  # of training
        "vocab_size",  # the tensors' shapes say it
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",  # acts with YaRN only
    }
)


def config_from_gguf(
    metadata: Mapping[str, object], tensor_shapes: Mapping[str, tuple[int, ...]], path: object
) -> Gemma3nTextConfig:
    """Return the configuration of a GGUF file: llama.cpp's keys of every age and ollama's.

    `tensor_shapes` are [out, in] by checkpoint name; they give the vocabulary sizes, the LAuReL
    rank and whether the head is tied, for which GGUF has no key. Raises ModelFileError like
    `config_from_hf`.
    """
    architecture = metadata.get("general.architecture")
    if architecture != _ARCHITECTURE:
        raise ModelFileError(path, f"general.architecture is {architecture!r}, not gemma3n")
    fields = Fields(metadata, path, prefix="gemma3n.")
    config = _config(fields, metadata, tensor_shapes)
    for key in _HEAD_SIZES:
        fields.expect(key, config.head_dim)
    for key, expected in _EXPECTED.items():
        fields.expect(key, *expected)
    fields.refuse_rest(_HARMLESS)
    check_config(config, path)
    return config


def _config(
    fields: Fields, metadata: Mapping[str, object], tensor_shapes: Mapping[str, tuple[int, ...]]
) -> Gemma3nTextConfig:
    path = fields.path
    num_layers = fields.integer("block_count", maximum=MAX_LAYERS)
    pattern, multipliers = _sparsity(fields, num_layers)
    vocab_size = _rows("embed_tokens.weight", tensor_shapes, path)
    per_layer_rows = _rows("embed_tokens_per_layer.weight", tensor_shapes, path)
    if per_layer_rows == _PADDED_VOCAB_SIZE:
        per_layer_rows = _TEXT_VOCAB_SIZE
    # Nestling's own files are padded alike and say how many rows are meant.
    per_layer_rows = fields.integer(
        "vocab_size_per_layer_input", maximum=per_layer_rows, default=per_layer_rows
    )
    return Gemma3nTextConfig(
        vocab_size=vocab_size,
        vocab_size_per_layer_input=per_layer_rows,
        hidden_size=fields.integer("embedding_length"),
        hidden_size_per_layer_input=fields.integer("embedding_length_per_layer_input"),
        num_hidden_layers=num_layers,
        intermediate_size=fields.integers("feed_forward_length", num_layers),
        num_attention_heads=fields.uniform_integer("attention.head_count", num_layers),
        num_key_value_heads=fields.uniform_integer("attention.head_count_kv", num_layers),
        head_dim=fields.integer("attention.key_length", "head_dim", minimum=2),
        layer_types=_layer_types(fields, num_layers),
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
        eos_token_ids=_eos(metadata, path),
        bos_token_id=Fields(metadata, path).integer(
            "tokenizer.ggml.bos_token_id", minimum=0, default=2
        ),
        tie_word_embeddings="lm_head.weight" not in tensor_shapes,
    )


def _rows(name: str, tensor_shapes: Mapping[str, tuple[int, ...]], path: object) -> int:
    shape = tensor_shapes.get(name)
    if not shape:
        raise ModelFileError(path, "missing", tensor=name)
    return shape[0]


def _sparsity(
    fields: Fields, num_layers: int
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Fractions and the multipliers they stand for. The file says -inf where a layer is dense."""
    scales = fields.numbers("activation_sparsity_scale", num_layers)
    if scales is None:
        return default_sparsity(num_layers), None
    fractions = tuple(0.0 if s == -math.inf else NormalDist().cdf(s) for s in scales)
    return fractions, scales


def _layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """Return layer types from a bool for each layer (true: sliding) or for all, or a period."""
    key = "attention.sliding_window_pattern"
    pattern = fields.get(key)
    if is_list(pattern) or isinstance(pattern, bool | np.bool_):
        flags = fields.booleans(key, num_layers)
        return tuple(SLIDING if is_sliding else FULL for is_sliding in flags)
    return periodic_layer_types(num_layers, fields.integer(key, default=DEFAULT_PERIOD))


def _eos(metadata: Mapping[str, object], path: object) -> tuple[int, ...]:
    """Every end-of-generation id the file states, first seen first."""
    fields = Fields(metadata, path, prefix="tokenizer.ggml.")
    keys = ("eos_token_id", "eos_token_ids", "eot_token_id")
    return tuple(dict.fromkeys(i for key in keys for i in fields.token_ids(key))) or (1,)
