"""The figures that the processes of a benchmark report, each of one fresh process."""

import msgspec


class PhaseTimes(msgspec.Struct, frozen=True):
    """The work of the steps of one phase, and where their time went."""

    num_steps: int
    num_tokens: int
    """Tokens of prompts that were computed, and of answers."""
    num_cached_tokens: int
    """Tokens of prompts that the prefix cache had."""
    weight_bytes_read: int
    part_seconds: dict[str, float]


class Memory(msgspec.Struct, frozen=True):
    """The memory of a process with the model and one sequence of `memory_context` tokens."""

    resident_bytes: int
    peak_resident_bytes: int


class Start(msgspec.Struct, frozen=True):
    """The start of a process that loads the model through `LLM` and makes one token."""

    load_s: float


class Throughput(msgspec.Struct, frozen=True):
    """Speeds of a stepped engine. Its phases are "prefill", "decode N" and "prefix hit"."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: dict[int, float]
    prefix_hit_first_token_s: float
    read_bandwidth_bytes_per_s: float
    weight_bytes_per_token: int
    phases: dict[str, PhaseTimes]
    memory: Memory | None = None


class Curves(msgspec.Struct, frozen=True):
    """The curves of a process that goes through batch sizes and prompt lengths."""

    decode_tokens_per_s: dict[int, float]
    """Total tokens a second, by the number of sequences."""
    context_tokens_per_s: dict[int, float]
    """Tokens a second of one sequence, by the tokens of its context."""
    first_token_s: dict[int, float]
    """Seconds, by the tokens of the prompt."""
    resident_bytes: dict[int, int]
    """Bytes, by the tokens of context."""


class Refusal(msgspec.Struct, frozen=True):
    """The message of a process that could not measure."""

    message: str
    exit_code: int
