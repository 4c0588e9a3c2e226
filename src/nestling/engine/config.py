"""What an engine is told at its start: model, threads and bounds; checked once, here."""

from dataclasses import dataclass
from typing import get_args

from nestling.errors import SettingsError
from nestling.model.kernels import WeightDtype

DTYPES: tuple[str, ...] = get_args(WeightDtype)

GIB = 1 << 30
SWITCHES: tuple[str, ...] = ()
"""Names of the engine's optimisations that can be switched off one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine; plain data, so that it crosses to the engine process as it is."""

    model: str
    """Path of a checkpoint folder or a .gguf file."""
    dtype: WeightDtype = "auto"
    """How matrices are held; "auto": bfloat16 where that loses nothing, else float32."""
    num_threads: int = 0
    """Threads of one forward pass; 0 takes one for each core this process may use."""
    max_num_seqs: int = 16
    """Requests computed at the same time."""
    max_num_batched_tokens: int | None = None
    """Rows of one step, prompt chunks and single tokens together; None: by the model's size."""
    max_waiting: int = 256
    """Requests that may wait for a place; more are refused as overloaded."""
    max_model_len: int | None = None
    """Prompt and answer together, in tokens; None takes the model's own bound."""
    num_blocks: int | None = None
    """Blocks of the KV cache; None fits `kv_cache_bytes`, one whole context at the least."""
    block_size: int = 16
    """Tokens in a block."""
    kv_cache_bytes: int = 2 * GIB
    switches_off: tuple[str, ...] = ()
    """Optimisations of `SWITCHES` that are not to be used, so that each can be measured."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SettingsError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
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
        rows = self.max_num_batched_tokens
        if rows is not None and rows < self.max_num_seqs:
            raise SettingsError(
                "max_num_batched_tokens: expected at least max_num_seqs "
                f"({self.max_num_seqs}), got {rows}",
                param="max_num_batched_tokens",
            )


_LEAST = {
    "num_threads": 0,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 1,
    "max_waiting": 0,
    "max_model_len": 2,  # one token in, one token out
    "num_blocks": 1,
    "block_size": 1,
    "kv_cache_bytes": 1,
}
