"""Tells what an engine is told at its start: model, threads and bounds; checked once, here."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from nestling.errors import SettingsError
from nestling.log import LogFormat, LogLevel
from nestling.native.system import MAX_THREADS
from nestling.weights.packing import WeightDtype

EngineKind = Literal["native", "reference"]
KVCacheDtype = Literal["auto", "float16", "float32"]

GIB = 1 << 30
SWITCHES: tuple[str, ...] = (
    "prefill_skip",
    "sparse_feed_forward",
    "gathered_embeddings",
    "fused_passes",
    "wanted_logits_only",
    "int16_activations",
)
"""Names of the engine's optimisations that can be switched off one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine; plain data, so that it crosses to the engine process as it is."""

    model: str
    """Path of a checkpoint folder or a .gguf file."""
    engine: EngineKind = "native"
    """The C++ core, or the numpy reference: slow, and not bit-stable."""
    dtype: WeightDtype = "auto"
    """How matrices are held; "auto": as the file has them, but float32 as bfloat16 where that loses
    nothing; "q8" and "q4" quantise the large ones."""
    num_threads: int = 0
    """Threads of one forward pass; 0 takes one for each physical core this process may use."""
    max_num_seqs: int = 64
    """Requests computed at the same time."""
    max_num_batched_tokens: int | None = None
    """Rows of one step, prompt chunks and single tokens together; None: by the model's size."""
    max_waiting: int = 256
    """Requests that may wait for a place; more are refused as overloaded."""
    max_model_len: int | None = None
    """Prompt and answer together, in tokens; None takes the model's own bound."""
    max_step_s: float = 0.4
    """While requests decode, a step takes only as many prompt tokens as keep it below this time."""
    num_blocks: int | None = None
    """Blocks of the full layers' KV cache; None: by `kv_cache_bytes`, see engine/kv/sizes.py."""
    num_sliding_blocks: int | None = None
    """Blocks of the sliding layers' KV cache; None likewise."""
    block_size: int = 16
    """Tokens in a block."""
    kv_cache_bytes: int = 2 * GIB
    """Of both pools together, unless one whole context takes more."""
    kv_dtype: KVCacheDtype = "auto"
    """How keys and values are held; "auto": float16 if the weights are quantised, else float32."""
    prefix_caching: bool = True
    """Take over what the cache still has of a prompt's beginning."""
    packed_dir: str | None = None
    """Folder where packed weights of large models are kept, to be mapped; None: nowhere."""
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    """How the engine process logs; the same as its parent."""
    switches_off: tuple[str, ...] = ()
    """Optimisations of `SWITCHES` that are not to be used, so that each can be measured."""

    def __post_init__(self) -> None:
        for key, kind in _CHOICES.items():
            choices, value = get_args(kind), getattr(self, key)
            if value not in choices:
                raise SettingsError(
                    f"{key}: expected one of {', '.join(choices)}, got {value!r}", param=key
                )
        self._check_reference()
        if not 0 < self.max_step_s < math.inf:
            raise SettingsError(
                f"max_step_s: expected seconds above 0, got {self.max_step_s}", param="max_step_s"
            )
        for name in self.switches_off:
            if name not in SWITCHES:
                known = ", ".join(SWITCHES) or "none"
                raise SettingsError(
                    f"switches_off: known switches: {known}; got {name!r}", param="switches_off"
                )
        for key, least in _LEAST.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise SettingsError(f"{key}: expected at least {least}, got {value}", param=key)
        if self.num_threads > MAX_THREADS:
            raise SettingsError(
                f"num_threads: expected at most {MAX_THREADS}, got {self.num_threads}",
                param="num_threads",
            )
        rows = self.max_num_batched_tokens
        if rows is not None and rows < self.max_num_seqs:
            raise SettingsError(
                "max_num_batched_tokens: expected at least max_num_seqs "
                f"({self.max_num_seqs}), got {rows}",
                param="max_num_batched_tokens",
            )

    def _check_reference(self) -> None:
        """numpy computes in float32 on threads of its own."""
        if self.engine != "reference":
            return
        if self.dtype not in ("auto", "float32"):
            raise SettingsError(
                f"dtype: expected auto or float32 with engine reference, got {self.dtype!r}",
                param="dtype",
            )
        if self.switches_off:
            raise SettingsError(
                "switches_off: expected none with engine reference, which has no switches, "
                f"got {', '.join(self.switches_off)}",
                param="switches_off",
            )
        if self.num_threads != 0:
            raise SettingsError(
                "num_threads: expected 0 with engine reference, whose threads are numpy's own, "
                f"got {self.num_threads}",
                param="num_threads",
            )


_CHOICES = {"engine": EngineKind, "dtype": WeightDtype, "kv_dtype": KVCacheDtype}
_LEAST = {
    "num_threads": 0,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 1,
    "max_waiting": 0,
    "max_model_len": 2,  # one token in, one token out
    "num_blocks": 1,
    "num_sliding_blocks": 1,
    "block_size": 1,
    "kv_cache_bytes": 1,
}
