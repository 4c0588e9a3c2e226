"""Hypothesis strategies for model shapes and schedules."""

from hypothesis import strategies as st

from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig


@st.composite
def configs(draw: st.DrawFn) -> Gemma3nTextConfig:
    """Small configurations that differ in every dimension a checkpoint may differ in.

    Not arbitrarily small: if only one neuron of a sparse gate survives, and just so, the norm
    behind it blows rounding up to the size of the signal, and no two implementations agree.
    """
    num_kv_heads = draw(st.integers(1, 3))
    num_heads = num_kv_heads * draw(st.integers(1, 3))
    owners = draw(st.lists(st.sampled_from([SLIDING, FULL]), min_size=1, max_size=6))
    sharers = draw(st.lists(st.sampled_from(sorted(set(owners))), max_size=4))
    num_layers = len(owners) + len(sharers)
    vocab_size = draw(st.integers(40, 150))
    num_inputs = draw(st.sampled_from([4, 4, 4, 2, 3]))
    return Gemma3nTextConfig(
        vocab_size=vocab_size,
        vocab_size_per_layer_input=draw(st.integers(vocab_size // 2, vocab_size)),
        hidden_size=num_heads * draw(st.integers(-(-32 // num_heads), 32)),
        hidden_size_per_layer_input=draw(st.integers(4, 24)),
        num_hidden_layers=num_layers,
        intermediate_size=tuple(draw(st.integers(128, 256)) for _ in range(num_layers)),
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=2 * draw(st.integers(2, 12)),
        layer_types=(*owners, *sharers),
        sliding_window=draw(st.integers(1, 20)),
        num_kv_shared_layers=len(sharers),
        activation_sparsity_pattern=tuple(
            draw(st.sampled_from([0.0, 0.5, 0.8, 0.95])) for _ in range(num_layers)
        ),
        laurel_rank=draw(st.integers(1, 12)),
        altup_num_inputs=num_inputs,
        altup_active_idx=draw(st.sampled_from([0, 0, num_inputs - 1])),
        altup_correct_scale=draw(st.booleans()),
        rope_theta=draw(st.sampled_from([1e6, 5e3])),
        rope_local_base_freq=draw(st.sampled_from([1e4, 100.0])),
        rope_scaling_factor=draw(st.sampled_from([1.0, 1.0, 8.0])),
        rope_local_scaling_factor=draw(st.sampled_from([1.0, 1.0, 2.0])),
        tie_word_embeddings=draw(st.booleans()),
        max_position_embeddings=512,
        final_logit_softcapping=draw(st.sampled_from([30.0, 3.0])),
    )


@st.composite
def schedules(draw: st.DrawFn, max_length: int = 24) -> tuple[list[int], list[list[int]]]:
    """Lengths of one to three sequences, and steps of how many tokens each advances."""
    lengths = draw(st.lists(st.integers(1, max_length), min_size=1, max_size=3))
    left = list(lengths)
    steps = []
    while any(left):
        counts = [draw(st.integers(0, n)) for n in left]
        if not any(counts):
            counts = [min(n, 1) for n in left]
        left = [n - count for n, count in zip(left, counts, strict=True)]
        steps.append(counts)
    return lengths, steps
