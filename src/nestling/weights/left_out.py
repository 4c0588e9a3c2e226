"""Which stored tensors may be left out: those that change no answer; others are refused by name."""

import re
from pathlib import Path

from nestling.errors import ModelFileError
from nestling.model.config import Gemma3nTextConfig

_TOWER = re.compile(
    r"(?:model\.|language_model\.)*(?:vision_tower|audio_tower|embed_vision|embed_audio)\."  # HF
    r"|(?:v|a|mm)\."  # GGUF
)
_ROPE_BUFFER = re.compile(r"(?:layers\.[0-9]+\.self_attn\.)?rotary_emb(?:_local)?\.inv_freq")
"""Frequencies that old transformers stored; the configuration gives them anew."""
_LAYER = re.compile(r"layers\.(0|[1-9][0-9]{0,3})\.(.+)", re.ASCII)
_UNUSED_WHERE_SHARED = (
    "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.k_norm.weight",
)  # fmt: skip


def check_left_out(path: Path, name: str, stored_name: str, config: Gemma3nTextConfig) -> None:
    """Raise ModelFileError unless the tensor is one that the text decoder never reads.

    `name` is the checkpoint's, or `stored_name` if the tensor has none.
    """
    if _TOWER.match(name) or _ROPE_BUFFER.fullmatch(name) or _is_unused(name, config):
        return
    reason = "is no tensor that Gemma 3n's text decoder has; without it the answers might be wrong"
    if "lora" in stored_name.lower():
        reason = "is part of a LoRA adapter; merge it into its model first"
    raise ModelFileError(path, reason, tensor=stored_name)


def _is_unused(name: str, config: Gemma3nTextConfig) -> bool:
    """Whether it belongs to a layer that has no use for it."""
    match = _LAYER.fullmatch(name)
    if match is None or not int(match[1]) < config.num_hidden_layers:
        return False
    if match[2] == "altup.correct_output_scale":
        return True  # the only one that is not required: the configuration switches it off
    return match[2] in _UNUSED_WHERE_SHARED and int(match[1]) >= config.first_kv_shared_layer
