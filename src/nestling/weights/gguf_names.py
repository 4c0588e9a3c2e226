"""The rename table GGUF -> checkpoint, for the architecture `gemma3n`.

Names and stacking are llama.cpp's (`conversion/gemma.py`, gguf-py `tensor_mapping`); norms carry no
+1 and q/k are not permuted in either form, so that loading is renaming.
"""

import re

from nestling.weights.stored_tensor import StoredTensor

_GLOBAL = {
    "token_embd.weight": "embed_tokens.weight",
    "per_layer_token_embd.weight": "embed_tokens_per_layer.weight",
    "per_layer_model_proj.weight": "per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": "per_layer_projection_norm.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}
_STACKED = {
    "altup_proj.weight": "altup_projections.{}.weight",
    "altup_unembd_proj.weight": "altup_unembed_projections.{}.weight",
}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "laurel_l.weight": "laurel.linear_left.weight",
    "laurel_r.weight": "laurel.linear_right.weight",
    "laurel_post_norm.weight": "laurel.post_laurel_norm.weight",
    "altup_predict_coef.weight": "altup.prediction_coefs.weight",
    "altup_correct_coef.weight": "altup.correction_coefs.weight",
    "altup_router.weight": "altup.modality_router.weight",
    "altup_router_norm.weight": "altup.router_norm.weight",
    "altup_correct_scale.weight": "altup.correct_output_scale",
    "inp_gate.weight": "per_layer_input_gate.weight",
    "proj.weight": "per_layer_projection.weight",
    "post_norm.weight": "post_per_layer_input_norm.weight",
}
_CHECKPOINT_LAYER = re.compile(r"layers\.([0-9]+)\.(.+)", re.ASCII)
_GLOBAL_BACK = {name: gguf for gguf, name in _GLOBAL.items()}
_LAYER_BACK = {name: gguf for gguf, name in _LAYER.items()}
_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.(.+)", re.ASCII)


def checkpoint_name(gguf_name: str) -> str | None:
    """The checkpoint's name (a pattern with `{}` for a stack); None for a name not in the table."""
    if match := _BLOCK.fullmatch(gguf_name):
        suffix = _LAYER.get(match[2])
        return None if suffix is None else f"layers.{match[1]}.{suffix}"
    return _GLOBAL.get(gguf_name) or _STACKED.get(gguf_name)


def gguf_name(name: str) -> str:
    """GGUF's name of a tensor of the decoder that is not part of a stack."""
    if match := _CHECKPOINT_LAYER.fullmatch(name):
        return f"blk.{match[1]}.{_LAYER_BACK[match[2]]}"
    return _GLOBAL_BACK[name]


def stacks() -> dict[str, str]:
    """GGUF's name of each stack of matrices -> the pattern of its parts' names, with `{}`."""
    return dict(_STACKED)


def rename_all(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors under checkpoint names, stacks split; those that are not in the table stay out."""
    renamed: dict[str, StoredTensor] = {}
    for gguf_name, tensor in stored.items():
        name = checkpoint_name(gguf_name)
        if name is None:
            continue
        if gguf_name not in _STACKED:
            renamed[name] = tensor
        elif len(tensor.shape) == 3:
            renamed |= {name.format(i): tensor.part(i) for i in range(tensor.shape[0])}
    return renamed
