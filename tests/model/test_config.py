"""Configurations from every form of `config.json` and GGUF metadata that is about."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nestling.errors import ModelFileError
from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig, std_multiplier
from nestling.model.gguf_config import config_from_gguf
from nestling.model.hf_config import config_from_hf
from tests.model.tiny import TINY, TINY_LLAMA_CPP, hf_config

E2B_LAYERS, E4B_LAYERS = 30, 35


def hf(**changes: object) -> dict[str, Any]:
    return {**hf_config(TINY), **changes}


def without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in keys}


def test_text_only_config() -> None:
    assert config_from_hf(hf(), "config.json") == TINY


def test_multimodal_config_reads_the_text_section_and_both_eos() -> None:
    raw = {
        "model_type": "gemma3n",
        "eos_token_id": [1, 106],
        "text_config": hf(eos_token_id=1, vocab_size_per_layer_input=512),
        "vision_config": {"hidden_size": 2048},
    }
    assert config_from_hf(raw, "config.json") == replace(TINY, eos_token_ids=(1, 106))


def test_old_rope_keys() -> None:
    raw = without(
        hf(rope_theta=5e5, rope_local_base_freq=123, rope_scaling=None), "rope_parameters"
    )
    config = config_from_hf(raw, "config.json")
    assert (config.rope_theta, config.rope_local_base_freq) == (5e5, 123.0)


def test_new_rope_keys_win_and_defaults_fill_in() -> None:
    both = hf(rope_theta=5.0, rope_parameters={FULL: {"rope_type": "default", "rope_theta": 7.0}})
    config = config_from_hf(both, "config.json")
    assert (config.rope_theta, config.rope_local_base_freq) == (7.0, 1e4)
    neither = config_from_hf(without(hf(), "rope_parameters"), "config.json")
    assert (neither.rope_theta, neither.rope_local_base_freq) == (1e6, 1e4)


LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_scaling": LINEAR}, (8.0, 1.0)),
        ({"rope_scaling": {"type": "linear", "factor": 8}}, (8.0, 1.0)),
        ({"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 8}}, (8.0, 1.0)),
        ({"rope_scaling": {"type": "default"}}, (1.0, 1.0)),
        ({"rope_scaling": {}}, (1.0, 1.0)),
        ({"rope_parameters": {FULL: LINEAR}}, (8.0, 1.0)),
        ({"rope_parameters": {FULL: {"type": "linear", "factor": 8}}}, (8.0, 1.0)),
        ({"rope_parameters": {FULL: None, SLIDING: LINEAR}}, (1.0, 8.0)),
        ({"rope_parameters": {FULL: LINEAR, SLIDING: LINEAR}, "rope_scaling": LINEAR}, (8.0, 8.0)),
        ({"rope_parameters": {FULL: {"partial_rotary_factor": 1.0}}}, (1.0, 1.0)),
    ],
    ids=str,
)
def test_linear_rope_scaling_in_every_spelling(
    changes: dict[str, object], expected: tuple[float, float]
) -> None:
    config = config_from_hf(hf(**changes), "config.json")
    assert (config.rope_scaling_factor, config.rope_local_scaling_factor) == expected


def test_keys_that_change_no_answer_pass() -> None:
    """The keys of google's own files, of transformers 4's long dumps and of other programs."""
    harmless = {
        "altup_coef_clip": 120.0, "altup_lr_multiplier": 1.0, "query_pre_attn_scalar": 256,
        "attention_dropout": 0.0, "initializer_range": 0.02, "torch_dtype": "bfloat16",
        "use_cache": True, "rope_scaling": None, "pad_token_id": 0, "dtype": "bfloat16",
        "_name_or_path": "google/gemma-3n-E4B-it", "architectures": ["Gemma3nForCausalLM"],
        "transformers_version": "4.53.0", "unsloth_fixed": True, "chunk_size_feed_forward": 0,
        "is_encoder_decoder": False, "pruned_heads": {}, "top_k": 50, "quantization_config": None,
        "a_key_of_tomorrow": None, "sliding_window_pattern": 5,
    }  # fmt: skip
    assert config_from_hf(hf(**harmless), "config.json") == TINY


def test_a_head_of_its_own_is_said_on_either_level() -> None:
    inner = hf(tie_word_embeddings=False)
    assert not config_from_hf(inner, "config.json").tie_word_embeddings
    outer = {"model_type": "gemma3n", "text_config": hf(), "tie_word_embeddings": False}
    assert not config_from_hf(outer, "config.json").tie_word_embeddings


def test_settings_beside_the_text_section_are_not_overlooked() -> None:
    outer = {"model_type": "gemma3n", "text_config": hf(), "vocab_size": 257_152}
    same = outer | {"sliding_window": 16, "layer_types": list(TINY.layer_types)}
    assert config_from_hf(same, "config.json") == TINY
    for key, value in {"rope_scaling": LINEAR, "sliding_window": 512}.items():
        with pytest.raises(ModelFileError, match=f"^config.json: {key} is "):
            config_from_hf(outer | {key: value}, "config.json")


def test_a_single_intermediate_size_stands_for_all() -> None:
    assert config_from_hf(hf(intermediate_size=64), "c").intermediate_size == (64,) * 10


def test_defaults_of_missing_keys() -> None:
    raw = hf(num_hidden_layers=35, intermediate_size=64, num_kv_shared_layers=15)
    raw = without(raw, "layer_types", "activation_sparsity_pattern", "eos_token_id", "bos_token_id")
    raw = without(raw, "final_logit_softcapping", "rms_norm_eps", "altup_num_inputs")
    config = config_from_hf(raw, "config.json")
    assert [i for i, t in enumerate(config.layer_types) if t == FULL] == [4, 9, 14, 19, 24, 29, 34]
    assert config.activation_sparsity_pattern == (0.95,) * 10 + (0.0,) * 25
    assert (config.eos_token_ids, config.bos_token_id) == ((1,), 2)
    assert config.final_logit_softcapping == 30.0
    assert config.first_kv_shared_layer == 20
    sources = [config.kv_source_layer(i) for i in range(35)]
    assert sources[:20] == list(range(20))
    assert set(sources[20:]) == {18, 19}
    assert sources[24] == sources[34] == 19


def test_a_written_null_switches_the_soft_cap_off() -> None:
    assert config_from_hf(hf(final_logit_softcapping=None), "c").final_logit_softcapping is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gemma3_text"}, "gemma3_text"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "gemma3n"}, "text_config"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "128"}, "hidden_size is '128'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 10**400}, "hidden_size"),
        ({"num_hidden_layers": 2**31 - 1}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"intermediate_size": [256] * 9}, "intermediate_size"),
        ({"intermediate_size": [256] * 9 + [0]}, "intermediate_size"),
        ({"layer_types": [FULL] * 9}, "layer_types"),
        ({"layer_types": [FULL] * 9 + ["chunked"]}, "layer_types"),
        ({"layer_types": "full"}, "layer_types"),
        ({"layer_types": [SLIDING] * 5 + [FULL] * 5}, "num_kv_shared_layers"),
        ({"num_kv_shared_layers": 10}, "num_kv_shared_layers"),
        ({"num_kv_shared_layers": -1}, "num_kv_shared_layers"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"head_dim": 31}, "head_dim"),
        ({"activation_sparsity_pattern": [1.0] * 10}, "activation_sparsity_pattern"),
        ({"activation_sparsity_pattern": [0.5] * 3}, "activation_sparsity_pattern"),
        ({"activation_sparsity_pattern": [math.nan] * 10}, "activation_sparsity_pattern"),
        ({"hidden_activation": "silu"}, "hidden_activation"),
        ({"attention_bias": True}, "attention_bias"),
        ({"tie_word_embeddings": 0}, "tie_word_embeddings"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is missing"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: type is 'dynamic'"),
        (
            {"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}},
            "type is 'yarn'",
        ),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling: factor is 2.0"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -2.0}}, "rope_scaling_factor is -2.0"),
        ({"rope_parameters": {FULL: {"rope_type": "yarn"}}}, "rope_type"),
        ({"rope_parameters": {FULL: {"type": "yarn"}}}, "type is 'yarn'"),
        ({"rope_parameters": {SLIDING: {"rope_type": ["default"]}}}, "rope_type is ['default']"),
        ({"rope_parameters": {FULL: {"rope_theta": 0}}}, "rope_theta"),
        (
            {"rope_parameters": {FULL: {"partial_rotary_factor": 0.5}}},
            "partial_rotary_factor is 0.5",
        ),
        ({"rope_parameters": {FULL: {"beta_fast": 32}}}, "beta_fast is 32, a key that"),
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
            "expected one object for full_attention and one for sliding_attention",
        ),
        (
            {
                "rope_parameters": {FULL: {"rope_type": "linear", "factor": 2.0}},
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            },
            "rope_scaling",
        ),
        (
            {"partial_rotary_factor": 0.25},
            "partial_rotary_factor is 0.25, expected 1 or no such key",
        ),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"num_experts": 8}, "num_experts is 8, a key that Nestling does not know"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised by 'gptq'"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantised by 'mlx'"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"altup_num_inputs": 17}, "altup_num_inputs"),
        ({"altup_active_idx": 4}, "altup_active_idx"),
        ({"altup_correct_scale": 1}, "altup_correct_scale"),
        ({"final_logit_softcapping": 0}, "final_logit_softcapping"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps"),
        ({"eos_token_id": [1, -3]}, "eos_token_id"),
        ({"eos_token_id": 544}, "eos_token_ids"),
        ({"bos_token_id": 544}, "bos_token_id"),
    ],
    ids=str,
)
def test_bad_config_json_names_file_and_key(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        config_from_hf(hf(**changes), "somewhere/config.json")
    assert str(caught.value).startswith("somewhere/config.json")
    assert named in str(caught.value)


def gguf_shapes(config: Gemma3nTextConfig) -> dict[str, tuple[int, ...]]:
    return {
        "embed_tokens.weight": (config.vocab_size, config.hidden_size),
        "embed_tokens_per_layer.weight": (config.vocab_size_per_layer_input, 1),
        "layers.0.laurel.linear_left.weight": (config.laurel_rank, config.hidden_size),
    }


def gguf(**changes: object) -> dict[str, Any]:
    """What llama.cpp's present converter writes for TINY_LLAMA_CPP; `__` stands for a dot."""
    c = TINY_LLAMA_CPP
    metadata = {
        "general.architecture": "gemma3n",
        "gemma3n.context_length": c.max_position_embeddings,
        "gemma3n.embedding_length": c.hidden_size,
        "gemma3n.block_count": c.num_hidden_layers,
        "gemma3n.feed_forward_length": list(c.intermediate_size),
        "gemma3n.attention.head_count": c.num_attention_heads,
        "gemma3n.attention.head_count_kv": c.num_key_value_heads,
        "gemma3n.attention.key_length": c.head_dim,
        "gemma3n.attention.value_length": c.head_dim,
        "gemma3n.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3n.attention.sliding_window": c.sliding_window,
        "gemma3n.attention.sliding_window_pattern": [t == SLIDING for t in c.layer_types],
        "gemma3n.attention.shared_kv_layers": c.num_kv_shared_layers,
        "gemma3n.rope.freq_base": 1e6,
        "gemma3n.rope.freq_base_swa": 1e4,
        "gemma3n.altup.active_idx": 0,
        "gemma3n.altup.num_inputs": 4,
        "gemma3n.embedding_length_per_layer_input": c.hidden_size_per_layer_input,
        "gemma3n.activation_sparsity_scale": [1.6448533535003662] * 10 + [-math.inf] * 15,
        "gemma3n.final_logit_softcapping": 30.0,
        "tokenizer.ggml.eos_token_id": 106,
        "tokenizer.ggml.bos_token_id": 2,
    }
    changed = {k.replace("__", "."): v for k, v in changes.items()}
    return {k: v for k, v in {**metadata, **changed}.items() if v is not None}


def from_gguf(**changes: object) -> Gemma3nTextConfig:
    return config_from_gguf(gguf(**changes), gguf_shapes(TINY_LLAMA_CPP), "m.gguf")


def same_but_for_sparsity(config: Gemma3nTextConfig) -> Gemma3nTextConfig:
    """Without the multipliers, which only GGUF states."""
    pattern = tuple(round(p, 6) for p in config.activation_sparsity_pattern)
    return replace(config, activation_sparsity_pattern=pattern, activation_std_multipliers=None)


def test_gguf_of_today() -> None:
    config = from_gguf()
    assert same_but_for_sparsity(config) == replace(TINY_LLAMA_CPP, eos_token_ids=(106,))
    assert config.activation_std_multiplier(0) == 1.6448533535003662
    assert config.activation_std_multiplier(10) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"gemma3n__attention__shared_kv_layers": 5.0},
        {"gemma3n__attention__shared_kv_layers": np.float32(5)},
        {"gemma3n__rope__freq_base_swa": None},
        {"gemma3n__rope__freq_base_swa": None, "gemma3n__rope__freq_base_local": 1e4},
        {"gemma3n__final_logit_softcapping": None},
        {"gemma3n__feed_forward_length": 512},
        {"gemma3n__feed_forward_length": np.full(25, 512, np.int32)},
        {"gemma3n__attention__sliding_window_pattern": None},
        {"gemma3n__attention__sliding_window_pattern": 5},
        {"gemma3n__attention__sliding_window_pattern": np.array(([True] * 4 + [False]) * 5)},
        {"gemma3n__attention__head_count": [4] * 25},
        {"gemma3n__attention__key_length": None, "gemma3n__head_dim": 64},
        {"gemma3n__activation_sparsity_scale": None},
        {"gemma3n__altup__num_inputs": None, "gemma3n__altup__active_idx": None},
        {"gemma3n__altup__correct_scale": True, "gemma3n__altup__lr_multiplier": 1.0},
        {"gemma3n__attention__layer_norm_rms_epsilon": None},
        {"tokenizer__ggml__bos_token_id": None},
        {"gemma3n__rope__dimension_count": 64, "gemma3n__attention__value_length": 64},
        {"gemma3n__rope__scaling__type": "none", "gemma3n__vocab_size": 544},
        {"gemma3n__rope__scaling__type": "linear", "gemma3n__rope__scaling__factor": 1.0},
        {"gemma3n__rope__scaling__finetuned": False, "general__sampling__top_k": 64},
    ],
    ids=str,
)
def test_gguf_of_every_age_means_the_same(changes: dict[str, object]) -> None:
    assert same_but_for_sparsity(from_gguf(**changes)) == same_but_for_sparsity(from_gguf())


def test_gguf_with_a_head_of_its_own() -> None:
    shapes = gguf_shapes(TINY_LLAMA_CPP)
    assert config_from_gguf(gguf(), shapes, "m.gguf").tie_word_embeddings
    with_head = shapes | {"lm_head.weight": shapes["embed_tokens.weight"]}
    assert not config_from_gguf(gguf(), with_head, "m.gguf").tie_word_embeddings


def test_gguf_one_flag_for_all_layers() -> None:
    config = from_gguf(gemma3n__attention__sliding_window_pattern=True)
    assert set(config.layer_types) == {SLIDING}


def test_gguf_ends_of_generation_are_merged() -> None:
    config = from_gguf(tokenizer__ggml__eos_token_ids=[1, 106], tokenizer__ggml__eot_token_id=106)
    assert config.eos_token_ids == (106, 1)


@pytest.mark.parametrize(
    ("vocab_rows", "per_layer_rows", "num_text_tokens"),
    [(262_144, 262_144, 262_144), (262_400, 262_144, 262_144), (262_400, 262_400, 262_144)],
)
def test_gguf_vocabulary_sizes(vocab_rows: int, per_layer_rows: int, num_text_tokens: int) -> None:
    shapes = gguf_shapes(TINY_LLAMA_CPP) | {
        "embed_tokens.weight": (vocab_rows, 256),
        "embed_tokens_per_layer.weight": (per_layer_rows, 1),
    }
    config = config_from_gguf(gguf(), shapes, "m.gguf")
    assert config.vocab_size == vocab_rows
    assert config.vocab_size_per_layer_input == 262_144
    assert config.num_text_tokens == num_text_tokens


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"general__architecture": "gemma3"}, "gemma3"),
        ({"general__architecture": None}, "general.architecture"),
        ({"gemma3n__block_count": None}, "gemma3n.block_count is missing"),
        (
            {"gemma3n__attention__shared_kv_layers": 4.5},
            "gemma3n.attention.shared_kv_layers is 4.5",
        ),
        ({"gemma3n__feed_forward_length": [512] * 24}, "gemma3n.feed_forward_length"),
        ({"gemma3n__attention__head_count": [4] * 24 + [2]}, "gemma3n.attention.head_count"),
        ({"gemma3n__attention__sliding_window_pattern": [1] * 25}, "sliding_window_pattern"),
        ({"gemma3n__activation_sparsity_scale": [math.nan] * 25}, "activation_sparsity_scale"),
        ({"gemma3n__activation_sparsity_scale": [math.inf] * 25}, "activation_sparsity_pattern"),
        ({"tokenizer__ggml__eos_token_id": "106"}, "tokenizer.ggml.eos_token_id"),
        ({"gemma3n__rope__scaling__type": "yarn"}, "gemma3n.rope.scaling.type is 'yarn'"),
        ({"gemma3n__rope__scaling__factor": 4.0}, "gemma3n.rope.scaling.factor is 4.0, expected 1"),
        ({"gemma3n__rope__scaling__attn_factor": 1.2}, "gemma3n.rope.scaling.attn_factor is 1.2"),
        ({"gemma3n__rope__scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier is 0.1, a key"),
        ({"gemma3n__rope__scale_linear": 2.0}, "gemma3n.rope.scale_linear is 2.0"),
        ({"gemma3n__rope__dimension_count": 32}, "gemma3n.rope.dimension_count is 32, expected 64"),
        ({"gemma3n__attention__value_length": 32}, "gemma3n.attention.value_length is 32"),
        ({"gemma3n__rope__freq_base_local": 1e5}, "gemma3n.rope.freq_base_local is 100000.0"),
        ({"gemma3n__attention__scale": 0.5}, "gemma3n.attention.scale is 0.5"),
        ({"gemma3n__attn_logit_softcapping": 50.0}, "gemma3n.attn_logit_softcapping is 50.0"),
        ({"gemma3n__new_feature": [1] * 99}, "..., a key that Nestling does not know"),
    ],
    ids=str,
)
def test_bad_gguf_metadata_names_file_and_key(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        from_gguf(**changes)
    assert str(caught.value).startswith("m.gguf")
    assert named in str(caught.value)


@pytest.mark.parametrize("name", gguf_shapes(TINY))
def test_gguf_without_a_tensor_that_gives_a_size(name: str) -> None:
    shapes = without(gguf_shapes(TINY_LLAMA_CPP), name)
    with pytest.raises(ModelFileError, match=name):
        config_from_gguf(gguf(), shapes, "m.gguf")


def test_std_multiplier_has_torchs_float32_rounding() -> None:
    assert std_multiplier(0.95) == 1.6448535919189453
    assert std_multiplier(0.5) == 0.0
    assert TINY.activation_std_multiplier(0) == 1.6448535919189453
    assert TINY.activation_std_multiplier(9) is None
