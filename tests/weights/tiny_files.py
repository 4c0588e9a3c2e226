"""Writes one tiny random Gemma 3n as safetensors folder and as GGUF, by means of its own.

The safetensors bytes are made here with json and numpy, the GGUF by the `gguf` library's writer and
its own name table, so that the readers are held against someone else's idea of the formats.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]

NUM_LAYERS, NUM_SHARED = 5, 2
HIDDEN, PER_LAYER, LAUREL, FEED_FORWARD = 64, 32, 32, 96
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 2, 1, 32
VOCAB, VOCAB_PER_LAYER = 96, 80
LAYER_TYPES = [
    "sliding_attention",
    "sliding_attention",
    "full_attention",
    "sliding_attention",
    "full_attention",
]

HF_CONFIG: dict[str, object] = {
    "architectures": ["Gemma3nForCausalLM"],
    "model_type": "gemma3n_text",
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB_PER_LAYER,
    "hidden_size": HIDDEN,
    "hidden_size_per_layer_input": PER_LAYER,
    "num_hidden_layers": NUM_LAYERS,
    "intermediate_size": [FEED_FORWARD] * NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "head_dim": HEAD_DIM,
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": LAYER_TYPES,
    "sliding_window": 8,
    "num_kv_shared_layers": NUM_SHARED,
    "activation_sparsity_pattern": [0.95] * 2 + [0.0] * 3,
    "laurel_rank": LAUREL,
    "altup_num_inputs": 4,
    "altup_active_idx": 0,
    "altup_correct_scale": True,
    "altup_coef_clip": 120.0,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "final_logit_softcapping": 30.0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Name without prefix -> shape, of the whole decoder including the shared layers' k/v."""
    q_size, kv_size = NUM_HEADS * HEAD_DIM, NUM_KV_HEADS * HEAD_DIM
    stack = NUM_LAYERS * PER_LAYER
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (VOCAB, HIDDEN),
        "embed_tokens_per_layer.weight": (VOCAB_PER_LAYER, stack),
        "per_layer_model_projection.weight": (stack, HIDDEN),
        "per_layer_projection_norm.weight": (PER_LAYER,),
        "norm.weight": (HIDDEN,),
    }
    for i in range(3):
        shapes[f"altup_projections.{i}.weight"] = (HIDDEN, HIDDEN)
        shapes[f"altup_unembed_projections.{i}.weight"] = (HIDDEN, HIDDEN)
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (HIDDEN,),
        "self_attn.q_proj.weight": (q_size, HIDDEN),
        "self_attn.k_proj.weight": (kv_size, HIDDEN),
        "self_attn.v_proj.weight": (kv_size, HIDDEN),
        "self_attn.q_norm.weight": (HEAD_DIM,),
        "self_attn.k_norm.weight": (HEAD_DIM,),
        "self_attn.o_proj.weight": (HIDDEN, q_size),
        "post_attention_layernorm.weight": (HIDDEN,),
        "pre_feedforward_layernorm.weight": (HIDDEN,),
        "mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN),
        "mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, FEED_FORWARD),
        "post_feedforward_layernorm.weight": (HIDDEN,),
        "laurel.linear_left.weight": (LAUREL, HIDDEN),
        "laurel.linear_right.weight": (HIDDEN, LAUREL),
        "laurel.post_laurel_norm.weight": (HIDDEN,),
        "altup.prediction_coefs.weight": (16, 4),
        "altup.correction_coefs.weight": (4, 4),
        "altup.modality_router.weight": (4, HIDDEN),
        "altup.router_norm.weight": (HIDDEN,),
        "altup.correct_output_scale": (HIDDEN,),
        "per_layer_input_gate.weight": (PER_LAYER, HIDDEN),
        "per_layer_projection.weight": (HIDDEN, PER_LAYER),
        "post_per_layer_input_norm.weight": (HIDDEN,),
    }
    for i in range(NUM_LAYERS):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def random_weights(seed: int = 0) -> Weights:
    """All tensors of `tensor_shapes`, scaled so that logits stay of order one."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in tensor_shapes().items():
        noise = rng.standard_normal(shape, dtype=np.float32)
        if "_norm." in name and ("q_norm" in name or "k_norm" in name):
            weights[name] = (1 + 0.1 * noise) * np.float32(HEAD_DIM**-0.25)
        elif len(shape) == 1:
            weights[name] = 1 + 0.1 * noise
        else:
            weights[name] = noise * np.float32(shape[-1] ** -0.5)
    return weights


def encode(values: NDArray[np.float32], dtype: str) -> bytes:
    """Little-endian bytes of a plain type; bf16 by truncation."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def safetensors_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A safetensors file of name -> (dtype, shape, bytes)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        ends = [offset, offset + len(data)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(t[2] for t in tensors.values())


def write_folder(
    folder: Path,
    weights: Weights,
    dtype: str = "F32",
    *,
    prefix: str = "model.",
    num_shards: int = 1,
    extra: Mapping[str, NDArray[np.float32]] | None = None,
) -> Path:
    """config.json and safetensors; `extra` tensors by their full names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7]}))
    named = {prefix + name: values for name, values in weights.items()} | dict(extra or {})
    stored = {name: (dtype, v.shape, encode(v, dtype)) for name, v in named.items()}
    if num_shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
        return folder
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = dict(list(stored.items())[shard::num_shards])
        (folder / file_name).write_bytes(safetensors_bytes(part))
        weight_map |= dict.fromkeys(part, file_name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def gguf_tensors(weights: Weights) -> Weights:
    """GGUF name -> values, by the library's own name table, AltUp's projections stacked."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3N, NUM_LAYERS)
    named: Weights = {}
    for stem in ("altup_projections", "altup_unembed_projections"):
        stacked = np.stack([weights[f"{stem}.{i}.weight"] for i in range(3)])
        named[f"{table.get_name(f'model.{stem}')}.weight"] = stacked
    for name, values in weights.items():
        if name.startswith("altup_"):
            continue
        found = table.get_name(f"model.{name}", try_suffixes=(".weight",))
        assert found is not None, name
        named[f"{found.removesuffix('.weight')}.weight"] = values
    return named


def write_gguf(
    path: Path,
    weights: Weights,
    ggml_type: str = "F32",
    *,
    edit: Callable[[gguf.GGUFWriter], None] | None = None,
) -> Path:
    """A llama.cpp-like file: matrices in `ggml_type`; norms, AltUp and LAuReL in F32.

    `edit` may add metadata or tensors before the file is written.
    """
    writer = gguf.GGUFWriter(str(path), "gemma3n")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length([FEED_FORWARD] * NUM_LAYERS)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(8)
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in LAYER_TYPES])
    writer.add_shared_kv_layers(NUM_SHARED)
    writer.add_rope_freq_base(1e6)
    writer.add_altup_active_idx(0)
    writer.add_altup_num_inputs(4)
    writer.add_embedding_length_per_layer_input(PER_LAYER)
    writer.add_activation_sparsity_scale([1.6448535919189453] * 2 + [float("-inf")] * 3)
    writer.add_eos_token_id(7)
    writer.add_bos_token_id(2)
    target = gguf.GGMLQuantizationType[ggml_type]
    for name, values in gguf_tensors(weights).items():
        keep = values.ndim == 1 or any(part in name for part in ("altup", "laurel", "model_proj"))
        raw_type = gguf.GGMLQuantizationType.F32 if keep else target
        writer.add_tensor(name, gguf.quantize(values, raw_type), raw_dtype=raw_type)
    if edit is not None:
        edit(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
