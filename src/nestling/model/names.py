"""Every tensor of the text decoder by checkpoint name, with its shape.

Names are HF's without the prefix (`model.` or `model.language_model.`). Norm weights are plain
factors: nothing is added to them.
"""

from nestling.model.config import Gemma3nTextConfig

HEAD = "lm_head.weight"
EMBEDDING = "embed_tokens.weight"
PER_LAYER_EMBEDDING = "embed_tokens_per_layer.weight"


def required_tensors(config: Gemma3nTextConfig) -> dict[str, tuple[int, ...]]:
    """Shapes, [out, in] for matrices, of all tensors that `Decoder` reads.

    The head is `embed_tokens` again unless the configuration says otherwise. Layers that share keys
    and values need no `k_proj`, `v_proj` and `k_norm`; published checkpoints carry them all the
    same.
    """
    hidden = config.hidden_size
    per_layer = config.num_hidden_layers * config.hidden_size_per_layer_input
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, hidden),
        PER_LAYER_EMBEDDING: (config.vocab_size_per_layer_input, per_layer),
        "per_layer_model_projection.weight": (per_layer, hidden),
        "per_layer_projection_norm.weight": (config.hidden_size_per_layer_input,),
        "norm.weight": (hidden,),
    }
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, hidden)
    for i in range(config.altup_num_inputs - 1):
        shapes[f"altup_projections.{i}.weight"] = (hidden, hidden)
        shapes[f"altup_unembed_projections.{i}.weight"] = (hidden, hidden)
    for i in range(config.num_hidden_layers):
        layer = _attention_tensors(config, i) | _layer_tensors(config, i)
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def _attention_tensors(config: Gemma3nTextConfig, layer_idx: int) -> dict[str, tuple[int, ...]]:
    hidden, head_dim = config.hidden_size, config.head_dim
    query_size = config.num_attention_heads * head_dim
    key_size = config.num_key_value_heads * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (query_size, hidden),
        "self_attn.q_norm.weight": (head_dim,),
        "self_attn.o_proj.weight": (hidden, query_size),
    }
    if layer_idx < config.first_kv_shared_layer:
        shapes["self_attn.k_proj.weight"] = (key_size, hidden)
        shapes["self_attn.v_proj.weight"] = (key_size, hidden)
        shapes["self_attn.k_norm.weight"] = (head_dim,)
    return shapes


def _layer_tensors(config: Gemma3nTextConfig, layer_idx: int) -> dict[str, tuple[int, ...]]:
    hidden = config.hidden_size
    intermediate = config.intermediate_size[layer_idx]
    per_layer, rank = config.hidden_size_per_layer_input, config.laurel_rank
    num_inputs = config.altup_num_inputs
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "pre_feedforward_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (intermediate, hidden),
        "mlp.up_proj.weight": (intermediate, hidden),
        "mlp.down_proj.weight": (hidden, intermediate),
        "post_feedforward_layernorm.weight": (hidden,),
        "laurel.linear_left.weight": (rank, hidden),
        "laurel.linear_right.weight": (hidden, rank),
        "laurel.post_laurel_norm.weight": (hidden,),
        "altup.prediction_coefs.weight": (num_inputs * num_inputs, num_inputs),
        "altup.correction_coefs.weight": (num_inputs, num_inputs),
        "altup.modality_router.weight": (num_inputs, hidden),
        "altup.router_norm.weight": (hidden,),
        "per_layer_input_gate.weight": (per_layer, hidden),
        "per_layer_projection.weight": (hidden, per_layer),
        "post_per_layer_input_norm.weight": (hidden,),
    }
    if config.altup_correct_scale:
        shapes["altup.correct_output_scale"] = (hidden,)
    return shapes
