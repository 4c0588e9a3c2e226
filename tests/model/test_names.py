"""The list of tensors: counts that are known from published files, and what sharing leaves out."""

import math
from dataclasses import replace

import numpy as np

from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig
from nestling.model.kv_cache import KVCache, kv_bytes_per_token
from nestling.model.names import required_tensors
from tests.model.tiny import TINY

E4B = Gemma3nTextConfig(
    vocab_size=262_400,
    vocab_size_per_layer_input=262_144,
    hidden_size=2048,
    hidden_size_per_layer_input=256,
    num_hidden_layers=35,
    intermediate_size=(16_384,) * 35,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=256,
    layer_types=((SLIDING,) * 4 + (FULL,)) * 7,
    sliding_window=512,
    num_kv_shared_layers=15,
    activation_sparsity_pattern=(0.95,) * 10 + (0.0,) * 25,
    laurel_rank=64,
)


def test_e4b_has_the_published_number_of_tensors_and_parameters() -> None:
    """A GGUF of E4B lists 847: stacks count once there, and shared layers keep k, v and k_norm."""
    shapes = required_tensors(E4B)
    unused, unstacked = 3 * 15, 4
    assert len(shapes) == 847 - unused + unstacked
    num_parameters = sum(math.prod(shape) for shape in shapes.values())
    shared_kv = 15 * (2 * 512 * 2048 + 256)
    assert num_parameters == 6_866_696_688 - shared_kv


def test_layers_that_share_need_no_keys_and_values() -> None:
    names = set(required_tensors(TINY))
    assert "layers.4.self_attn.k_norm.weight" in names
    assert not any(name.startswith("layers.5.self_attn.k") for name in names)
    assert "layers.5.self_attn.q_norm.weight" in names


def test_a_model_without_scale_on_the_corrected_stream_needs_none() -> None:
    extra = set(required_tensors(TINY)) - set(
        required_tensors(replace(TINY, altup_correct_scale=False))
    )
    assert extra == {f"layers.{i}.altup.correct_output_scale" for i in range(10)}


def test_the_cache_holds_only_layers_that_own_keys() -> None:
    cache = KVCache.allocate(TINY, 7, 3, "float16")
    shapes = [(3, 2, 32)] * 4 + [(7, 2, 32)]
    for arrays in (cache.keys, cache.values):
        assert [array.shape for array in arrays] == shapes
        assert {array.dtype for array in arrays} == {np.dtype(np.float16)}
    num_bytes = sum(array.nbytes for array in (*cache.keys, *cache.values))
    assert num_bytes == 7 * kv_bytes_per_token(TINY, FULL, "float16") + 3 * kv_bytes_per_token(
        TINY, SLIDING, "float16"
    )


def test_e4b_takes_8_kib_a_token_and_16_mib_a_window() -> None:
    """The figures of docs/model.md."""
    assert kv_bytes_per_token(E4B, FULL, "float16") == 8 << 10
    assert kv_bytes_per_token(E4B, SLIDING, "float16") * E4B.sliding_window == 16 << 20
