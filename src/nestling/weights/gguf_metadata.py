"""A checkpoint's configuration and vocabulary as GGUF metadata, with llama.cpp's keys and types."""

import math
from pathlib import Path

import numpy as np

from nestling.errors import ModelFileError
from nestling.model.config import Gemma3nTextConfig
from nestling.weights.gguf_writer import MetadataValue
from nestling.weights.vocabulary import NO_RANK, SPACE, PieceType, Vocabulary

_FILE_TYPES = {"Q4_0": 2, "Q8_0": 7}
"""llama.cpp's numbers for "mostly this type"."""
_SPECIAL_SCORE = -1000.0
_UNUSED = 5


def gguf_metadata(
    config: Gemma3nTextConfig, vocabulary: Vocabulary | None, dtype: str, path: Path
) -> dict[str, MetadataValue]:
    """All keys of a file whose matrices are mostly `dtype`.

    Raises ModelFileError naming `path`, where config or vocabulary come from, for what GGUF has no
    way to say.
    """
    return {
        "general.architecture": "gemma3n",
        "general.file_type": _FILE_TYPES[dtype],
        "general.quantization_version": 2,
        **_of_config(config, path),
        **_of_vocabulary(config, vocabulary, path),
    }


def _of_config(config: Gemma3nTextConfig, path: Path) -> dict[str, MetadataValue]:
    if config.final_logit_softcapping is None:
        raise ModelFileError(
            path, "final_logit_softcapping is null, which GGUF's gemma3n cannot say"
        )
    if (config.rope_scaling_factor, config.rope_local_scaling_factor) != (1, 1):
        raise ModelFileError(
            path,
            "rope is scaled, which GGUF's gemma3n cannot say of full layers alone; "
            "expected a model without rope_scaling",
        )
    layers = range(config.num_hidden_layers)
    cuts = [config.activation_std_multiplier(i) for i in layers]
    sizes = config.intermediate_size
    values: dict[str, MetadataValue] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": sizes[0] if len(set(sizes)) == 1 else np.array(sizes, np.uint32),
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": np.array([config.is_sliding(i) for i in layers]),
        "attention.shared_kv_layers": config.num_kv_shared_layers,
        "rope.freq_base": float(config.rope_theta),
        "rope.freq_base_swa": float(config.rope_local_base_freq),
        "final_logit_softcapping": float(config.final_logit_softcapping),
        "altup.active_idx": config.altup_active_idx,
        "altup.num_inputs": config.altup_num_inputs,
        "altup.correct_scale": config.altup_correct_scale,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "activation_sparsity_scale": np.array(
            [-math.inf if cut is None else cut for cut in cuts], np.float32
        ),
        "vocab_size": config.vocab_size,
        "vocab_size_per_layer_input": config.vocab_size_per_layer_input,
    }
    return {f"gemma3n.{key}": value for key, value in values.items()}


def _of_vocabulary(
    config: Gemma3nTextConfig, vocabulary: Vocabulary | None, path: Path
) -> dict[str, MetadataValue]:
    ends = config.eos_token_ids
    if vocabulary is None:
        end = ends[0]
        values: dict[str, MetadataValue] = {"model": "none", "bos_token_id": config.bos_token_id}
    else:
        end = vocabulary.end_of_turn_id
        ends = tuple(sorted({*ends, *vocabulary.eos_token_ids}))
        values = _of_pieces(config.vocab_size, vocabulary, path)
    values |= {"eos_token_id": end, "eos_token_ids": np.array(ends, np.uint32)}
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def _of_pieces(vocab_size: int, vocabulary: Vocabulary, path: Path) -> dict[str, MetadataValue]:
    """The SentencePiece arrays; pieces that merge earlier score higher."""
    size = len(vocabulary.pieces)
    if size > vocab_size:
        raise ModelFileError(path, f"has {size} pieces, expected at most vocab_size, {vocab_size}")
    types = vocabulary.types.astype(np.int32)
    is_normal = types == PieceType.NORMAL
    scores = np.where(is_normal, 0.0, _SPECIAL_SCORE).astype(np.float32)
    scores[types == PieceType.BYTE] = 0.0
    is_merged = vocabulary.merge_ranks != NO_RANK
    scores[is_merged] = -vocabulary.merge_ranks[is_merged]
    for i in np.flatnonzero(is_normal & ~is_merged):
        if len(vocabulary.pieces[i]) > 1:
            # SentencePiece merges any neighbours that together are a piece.
            raise ModelFileError(
                path,
                f"token {i}: {vocabulary.pieces[i]!r} is made by no merge, which GGUF's "
                "SentencePiece vocabulary cannot say",
            )
    pieces = [
        piece.replace(SPACE, " ") if type_ == PieceType.USER_DEFINED else piece
        for piece, type_ in zip(vocabulary.pieces, vocabulary.types.tolist(), strict=True)
    ]
    padding = vocab_size - size
    values: dict[str, MetadataValue] = {
        "model": "llama",
        "pre": "default",
        "tokens": [*pieces, *(f"[PAD{i}]" for i in range(size, vocab_size))],
        "scores": np.append(scores, np.full(padding, _SPECIAL_SCORE, np.float32)),
        "token_type": np.append(types, np.full(padding, _UNUSED, np.int32)),
        "bos_token_id": vocabulary.bos_token_id,
        "eot_token_id": vocabulary.end_of_turn_id,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": False,
    }
    unknown = np.flatnonzero(types == PieceType.UNKNOWN)
    if unknown.size:
        values["unknown_token_id"] = int(unknown[0])
    if "<pad>" in vocabulary.pieces:
        values["padding_token_id"] = vocabulary.pieces.index("<pad>")
    return values
