"""The configuration of a Hugging Face folder: `config.json`, multimodal or text only.

Every key of the text section is read, expected to have the one value that this decoder computes, or
known to change no answer. Any other key is refused by name.
"""

from collections.abc import Mapping

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
from nestling.model.fields import Fields

_MODEL_TYPES = ("gemma3n", "gemma3n_text")
_ROPE_TYPES = ("default", "linear")
_EXPECTED: dict[str, tuple[object, ...]] = {
    "model_type": ("gemma3n_text",),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "hidden_act": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "attn_logit_softcapping": (),
    "use_bidirectional_attention": (False,),
    "is_causal": (True,),
    "partial_rotary_factor": (1,),
    "sliding_window_pattern": (DEFAULT_PERIOD,),
    "_sliding_window_pattern": (DEFAULT_PERIOD,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
}
"""Keys that bear on the mathematics, and the values with which it is that of this decoder."""
# Of training, files, other programs, and of generation (`generation_config.json` counts). The three
# first are not read by transformers in inference.
_HARMLESS_KEYS = """
    altup_coef_clip altup_lr_multiplier query_pre_attn_scalar attention_dropout initializer_range
    use_cache dtype torch_dtype use_bfloat16 torchscript architectures transformers_version
    _name_or_path _commit_hash _attn_implementation _attn_implementation_autoset
    _attn_implementation_internal _experts_implementation attn_implementation
    chunk_size_feed_forward cross_attention_hidden_size is_decoder return_dict output_attentions
    output_hidden_states return_dict_in_generate output_scores problem_type finetuning_task
    id2label label2id task_specific_params tokenizer_class prefix tf_legacy_loss unsloth_fixed
    unsloth_version mlx_version license base_model pad_token_id sep_token_id cls_token_id
    unk_token_id decoder_start_token_id image_token_id audio_token_id boi_token_id eoi_token_id
    boa_token_id eoa_token_id image_token_index audio_token_index ignore_index
    vision_soft_tokens_per_image audio_soft_tokens_per_image vision_config audio_config
    max_length min_length max_new_tokens min_new_tokens do_sample early_stopping num_beams
    num_beam_groups num_return_sequences diversity_penalty temperature top_k top_p min_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    bad_words_ids suppress_tokens begin_suppress_tokens forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty
"""
_HARMLESS = frozenset(_HARMLESS_KEYS.split())
# Settings beside `text_config` that would be overlooked; sizes show in the tensors' shapes.
_ONLY_INSIDE = """
    rope_parameters rope_scaling rope_theta rope_local_base_freq partial_rotary_factor layer_types
    sliding_window activation_sparsity_pattern altup_active_idx altup_correct_scale rms_norm_eps
    hidden_activation attention_bias final_logit_softcapping attn_logit_softcapping
    use_bidirectional_attention num_kv_shared_layers
"""


def config_from_hf(raw: Mapping[str, object], path: object) -> Gemma3nTextConfig:
    """Return the text configuration of a parsed `config.json`, of any transformers version.

    Raises ModelFileError naming an unknown architecture or key, a missing key or a bad value.
    `tie_word_embeddings` is what the file says; the tensors have the last word.
    """
    model_type = raw.get("model_type")
    if model_type not in _MODEL_TYPES:
        architectures = raw.get("architectures")
        raise ModelFileError(
            path, f"model_type is {model_type!r} (architectures {architectures!r}), not gemma3n"
        )
    outer = Fields(raw, path)
    is_multimodal = model_type == "gemma3n"
    text = outer.section("text_config", is_required=True) if is_multimodal else outer
    for level in (outer, text):
        _refuse_quantized(level)
    config = _text_config(outer, text)
    for key, expected in _EXPECTED.items():
        text.expect(key, *expected)
    text.refuse_rest(_HARMLESS)
    if is_multimodal:
        for key in _ONLY_INSIDE.split():
            outer.expect(key, *(v for v in [text.values.get(key)] if v is not None))
    check_config(config, path)
    return config


def _text_config(outer: Fields, text: Fields) -> Gemma3nTextConfig:
    num_layers = text.integer("num_hidden_layers", maximum=MAX_LAYERS)
    sparsity = text.numbers("activation_sparsity_pattern", num_layers)
    layer_types = text.strings("layer_types")
    (rope_theta, factor), (local_theta, local_factor) = _rope(text)
    ties = [level.boolean("tie_word_embeddings", default=True) for level in (outer, text)]
    return Gemma3nTextConfig(
        vocab_size=text.integer("vocab_size"),
        vocab_size_per_layer_input=text.integer("vocab_size_per_layer_input"),
        hidden_size=text.integer("hidden_size"),
        hidden_size_per_layer_input=text.integer("hidden_size_per_layer_input"),
        num_hidden_layers=num_layers,
        intermediate_size=text.integers("intermediate_size", num_layers),
        num_attention_heads=text.integer("num_attention_heads"),
        num_key_value_heads=text.integer("num_key_value_heads"),
        head_dim=text.integer("head_dim", minimum=2),
        layer_types=layer_types or periodic_layer_types(num_layers, DEFAULT_PERIOD),
        sliding_window=text.integer("sliding_window"),
        num_kv_shared_layers=text.integer("num_kv_shared_layers", minimum=0),
        activation_sparsity_pattern=sparsity or default_sparsity(num_layers),
        laurel_rank=text.integer("laurel_rank"),
        altup_num_inputs=text.integer("altup_num_inputs", default=4),
        altup_active_idx=text.integer("altup_active_idx", minimum=0, default=0),
        altup_correct_scale=text.boolean("altup_correct_scale", default=True),
        rope_theta=rope_theta,
        rope_local_base_freq=local_theta,
        rope_scaling_factor=factor,
        rope_local_scaling_factor=local_factor,
        max_position_embeddings=text.integer("max_position_embeddings", default=32_768),
        rms_norm_eps=text.number("rms_norm_eps", default=1e-6),
        final_logit_softcapping=text.optional_number("final_logit_softcapping", default=30.0),
        eos_token_ids=_eos(outer, text),
        bos_token_id=text.integer("bos_token_id", minimum=0, default=2),
        tie_word_embeddings=all(ties),
    )


def _refuse_quantized(level: Fields) -> None:
    """Name the method by which weights are quantised, before any tensor is looked at."""
    for key in ("quantization_config", "quantization"):
        section = level.section(key)
        if section.values:
            method = section.get("quant_method") or "mlx"
            raise ModelFileError(
                level.path,
                f"{key}: the weights are quantised by {method!r}, which Nestling does not read; "
                "take the model's 16-bit folder, or a GGUF file of it",
            )


def _rope(text: Fields) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return base and scaling factor of full and of sliding layers.

    `rope_parameters` (transformers 5) wins over `rope_theta` and `rope_local_base_freq`. The old
    `rope_scaling` is of full layers only, as in transformers.
    """
    parameters = text.section("rope_parameters")
    if parameters.values and not any(kind in parameters.values for kind in (FULL, SLIDING)):
        text.bad("rope_parameters", f"one object for {FULL} and one for {SLIDING}")
    full_base = text.number("rope_theta", default=1e6)
    local_base = text.number("rope_local_base_freq", default=1e4)
    full = _rope_section(parameters.section(FULL), full_base)
    local = _rope_section(parameters.section(SLIDING), local_base)
    parameters.refuse_rest()
    scaling = text.section("rope_scaling")
    if scaling.values:
        scaled = _rope_section(scaling, full[0])
        if full[1] not in (1, scaled[1]):
            text.bad("rope_scaling", f"the factor {full[1]} as in rope_parameters, or null")
        full = scaled
    return full, local


def _rope_section(section: Fields, default_base: float) -> tuple[float, float]:
    kind = section.choice("rope_type", "type", options=_ROPE_TYPES, default="default")
    factor = section.number("factor", default=1.0)
    if kind == "linear" and section.get("factor") is None:
        section.bad("factor", "a number, as rope_type is 'linear'")
    if kind == "default" and factor != 1:
        section.bad("factor", "1 or no such key, as rope_type is 'default'")
    section.expect("partial_rotary_factor", 1)
    section.expect("attention_factor", 1)
    base = section.number("rope_theta", default=default_base)
    section.refuse_rest()
    return base, factor


def _eos(outer: Fields, text: Fields) -> tuple[int, ...]:
    """Return the end-of-sequence ids of both levels of the file, first seen first."""
    ids = [*outer.token_ids("eos_token_id"), *text.token_ids("eos_token_id")]
    return tuple(dict.fromkeys(ids)) or (1,)
