"""The models and prompts whose outputs transformers gave once (see README.md)."""

from dataclasses import dataclass

from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig
from tests.model.tiny import TINY


@dataclass(frozen=True)
class DecoderCase:
    """A model drawn by `random_weights(config, seed)` and a prompt by `token_ids(config, ...)`."""

    config: Gemma3nTextConfig
    seed: int
    num_tokens: int
    logit_rows: tuple[int, ...]
    """Rows whose logits are stored."""
    stack_layers: tuple[int, ...]
    """Layers whose streams are stored, for all `logit_rows`."""


CASES = {
    "tiny": DecoderCase(TINY, 1, 48, (0, 1, 15, 16, 17, 31, 40, 47), (0, 3, 4, 5, 9)),
    # MatFormer: widths differ by layer; one head of keys for three of queries; a window of 3.
    "narrow": DecoderCase(
        Gemma3nTextConfig(
            vocab_size=150,
            vocab_size_per_layer_input=90,
            hidden_size=66,
            hidden_size_per_layer_input=10,
            num_hidden_layers=6,
            intermediate_size=(200, 128, 160, 144, 176, 130),
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=14,
            layer_types=(FULL, SLIDING, SLIDING, SLIDING, FULL, SLIDING),
            sliding_window=3,
            num_kv_shared_layers=3,
            activation_sparsity_pattern=(0.5, 0.0, 0.8, 0.95, 0.0, 0.9),
            laurel_rank=5,
            rope_theta=5e3,
            rope_local_base_freq=100.0,
            final_logit_softcapping=3.0,
        ),
        seed=2,
        num_tokens=30,
        logit_rows=(0, 2, 3, 4, 12, 29),
        stack_layers=(0, 1, 2, 5),
    ),
    # No sharing, as many heads of keys as of queries, no scale on the corrected stream.
    "unshared": DecoderCase(
        Gemma3nTextConfig(
            vocab_size=100,
            vocab_size_per_layer_input=100,
            hidden_size=48,
            hidden_size_per_layer_input=16,
            num_hidden_layers=4,
            intermediate_size=(128, 128, 192, 192),
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=24,
            layer_types=(SLIDING, SLIDING, FULL, SLIDING),
            sliding_window=8,
            num_kv_shared_layers=0,
            activation_sparsity_pattern=(0.95, 0.95, 0.0, 0.0),
            laurel_rank=8,
            altup_correct_scale=False,
        ),
        seed=3,
        num_tokens=25,
        logit_rows=(0, 7, 8, 9, 24),
        stack_layers=(0, 2, 3),
    ),
    # Three streams with the last one active, all layers full.
    "three_streams": DecoderCase(
        Gemma3nTextConfig(
            vocab_size=120,
            vocab_size_per_layer_input=64,
            hidden_size=64,
            hidden_size_per_layer_input=8,
            num_hidden_layers=5,
            intermediate_size=(160,) * 5,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            layer_types=(FULL,) * 5,
            sliding_window=512,
            num_kv_shared_layers=2,
            activation_sparsity_pattern=(0.0, 0.9, 0.0, 0.9, 0.0),
            laurel_rank=12,
            altup_num_inputs=3,
            altup_active_idx=2,
            rms_norm_eps=1e-5,
        ),
        seed=4,
        num_tokens=20,
        logit_rows=(0, 1, 10, 19),
        stack_layers=(0, 2, 4),
    ),
    # A head of its own, angles of both layer types scaled by factors of their own.
    "untied": DecoderCase(
        Gemma3nTextConfig(
            vocab_size=110,
            vocab_size_per_layer_input=80,
            hidden_size=64,
            hidden_size_per_layer_input=12,
            num_hidden_layers=5,
            intermediate_size=(144,) * 5,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=16,
            layer_types=(SLIDING, FULL, SLIDING, SLIDING, FULL),
            sliding_window=6,
            num_kv_shared_layers=2,
            activation_sparsity_pattern=(0.9, 0.0, 0.9, 0.0, 0.0),
            laurel_rank=8,
            rope_theta=1e3,
            rope_local_base_freq=50.0,
            rope_scaling_factor=8.0,
            rope_local_scaling_factor=2.5,
            tie_word_embeddings=False,
        ),
        seed=5,
        num_tokens=24,
        logit_rows=(0, 5, 6, 7, 23),
        stack_layers=(0, 1, 4),
    ),
}
