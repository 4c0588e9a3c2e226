"""The network: its configuration, a start with every feature live, and the training forward pass.

The training pass equals `Gemma3nForCausalLM`'s, except that positions without loss stop before the
KV-shared layers: those layers read keys and values of earlier ones, so nothing is lost.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from training.batches import SLIDING_WINDOW, Batch

NUM_LAYERS, NUM_SHARED = 10, 5
LAYER_TYPES = (["sliding_attention"] * 4 + ["full_attention"]) * 2


def config(vocab_size: int = 2048) -> Gemma3nTextConfig:
    """Return a configuration of about 3.6 M parameters that has all of Gemma 3n's parts."""
    return Gemma3nTextConfig(
        vocab_size=vocab_size,
        vocab_size_per_layer_input=vocab_size,
        hidden_size=128,
        hidden_size_per_layer_input=32,
        intermediate_size=[512] * NUM_LAYERS,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=SLIDING_WINDOW,
        layer_types=LAYER_TYPES,
        num_kv_shared_layers=NUM_SHARED,
        activation_sparsity_pattern=[0.95] * 3 + [0.0] * 7,
        laurel_rank=16,
        max_position_embeddings=2048,
        final_logit_softcapping=30.0,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        attn_implementation="sdpa",
    )


def fresh(seed: int, vocab_size: int = 2048) -> Gemma3nForCausalLM:
    """Return a seeded random model. Plain initialisation sets some parts to zero; none is here."""
    torch.manual_seed(seed)
    model: Gemma3nForCausalLM = Gemma3nForCausalLM(config(vocab_size))
    model.eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("correct_output_scale"):
                p.fill_(1.0)
            elif ".q_norm." in name or ".k_norm." in name:
                p.fill_(p.shape[0] ** -0.25)
            elif p.ndim == 1:
                p.fill_(1.0)
            elif "_coefs" in name:
                p.normal_(0.0, 0.1)
            elif "modality_router" in name:
                p.normal_(0.0, 6.0)
            elif "embed_tokens_per_layer" in name:
                p.normal_(0.0, 0.06)
            else:
                p.normal_(0.0, p.shape[1] ** -0.5)
    return model


def _same_magnitude(x: Tensor, like: Tensor) -> Tensor:
    """Return `x` [.., H] rescaled to the root mean square of `like`."""
    target = torch.mean(like**2, dim=-1, keepdim=True) ** 0.5
    return x * target / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True).clamp(min=1e-5))


def loss(model: Gemma3nForCausalLM, batch: Batch) -> Tensor:
    """Return the cross-entropy of this worker's targets, divided by the number of all targets."""
    text, rows = model.model, torch.arange(batch.ids.shape[0])[:, None]
    x = text.embed_tokens(batch.ids)
    per_layer = text.project_per_layer_inputs(x, text.get_per_layer_inputs(batch.ids))
    h = torch.stack([x, *(_same_magnitude(p(x), x) for p in text.altup_projections)])
    rope = {
        t: text.rotary_emb(h, batch.positions, t) for t in ("full_attention", "sliding_attention")
    }
    masks = {"full_attention": batch.full, "sliding_attention": batch.sliding}
    shared: dict[str, tuple[Tensor, Tensor]] = {}
    for i, layer in enumerate(text.layers):
        if i == NUM_LAYERS - NUM_SHARED:
            h, per_layer = h[:, rows, batch.chosen], per_layer[rows, batch.chosen]
            rope = {t: (c[rows, batch.chosen], s[rows, batch.chosen]) for t, (c, s) in rope.items()}
            masks = {"full_attention": batch.chosen_full, "sliding_attention": batch.chosen_sliding}
        kind = LAYER_TYPES[i]
        h = layer(
            h,
            rope[kind],
            per_layer[:, :, i],
            shared_kv_states=shared,
            attention_mask=masks[kind],
            position_ids=batch.positions,
            past_key_values=None,
        )
    out = [
        h[0],
        *(_same_magnitude(p(h[i + 1]), h[0]) for i, p in enumerate(text.altup_unembed_projections)),
    ]
    logits = model.lm_head(text.norm(torch.stack(out).mean(dim=0)))
    cap = model.config.final_logit_softcapping
    logits = torch.tanh(logits / cap) * cap
    total = functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100, reduction="sum"
    )
    return total / batch.num_targets
