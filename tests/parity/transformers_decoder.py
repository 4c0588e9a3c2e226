"""The reference: transformers' Gemma 3n text model, float32, eager attention, one thread.

Needs torch, so that tests import this module from inside themselves.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from nestling.model import config as nestling_config
from nestling.model.names import HEAD
from tests.model.tiny import hf_config

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceOutput:
    """What one full forward pass gives."""

    logits: Array
    """[num_tokens, vocab_size]"""
    stacks: list[Array]
    """Per layer [num_tokens, altup_num_inputs, hidden_size]."""


class ReferenceDecoder:
    """transformers' model with the given weights (names without prefix)."""

    def __init__(
        self, config: nestling_config.Gemma3nTextConfig, weights: Mapping[str, Array]
    ) -> None:
        torch.set_num_threads(1)
        keywords = {k: v for k, v in hf_config(config).items() if k != "model_type"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' own deprecations are not our matter
            hf = Gemma3nTextConfig(**keywords, attn_implementation="eager")
            self.model = Gemma3nForCausalLM(hf).eval().float()
        state = {
            name if name == HEAD else f"model.{name}": torch.from_numpy(array)
            for name, array in weights.items()
        }
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        # A tied head is the embedding; a scale that is switched off is there all the same.
        unused = (*([HEAD] if config.tie_word_embeddings else []), "correct_output_scale")
        assert all(name.endswith(unused) for name in missing), missing
        self.model.tie_weights()

    def run(self, ids: Sequence[int]) -> ReferenceOutput:
        """One forward pass over the whole sequence."""
        stacks: list[Array] = []
        hooks = [
            layer.register_forward_hook(
                lambda _module, _inputs, out: stacks.append(out[:, 0].transpose(0, 1).numpy())
            )
            for layer in self.model.model.layers
        ]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = self.model(input_ids=torch.tensor([list(ids)]), use_cache=True).logits[0]
        for hook in hooks:
            hook.remove()
        return ReferenceOutput(logits.numpy(), [np.ascontiguousarray(s) for s in stacks])
