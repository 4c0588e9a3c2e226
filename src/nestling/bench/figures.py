"""What the children of a benchmark report: the figures of one fresh process each."""

import msgspec


class PhaseTimes(msgspec.Struct, frozen=True):
    """What the steps of one phase did, and where they spent their time."""

    num_steps: int
    num_tokens: int
    """Of prompts computed and of answers generated."""
    num_cached_tokens: int
    """Of prompts, found in the prefix cache."""
    weight_bytes_read: int
    part_seconds: dict[str, float]


class Memory(msgspec.Struct, frozen=True):
    """Of a process that has loaded the model and holds one sequence of `memory_context` tokens."""

    resident_bytes: int
    peak_resident_bytes: int


class Start(msgspec.Struct, frozen=True):
    """Of a process that loads the model through `LLM` and makes one token."""

    load_s: float


class Throughput(msgspec.Struct, frozen=True):
    """Of a process that steps the engine. Phases are "prefill", "decode N" and "prefix hit"."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: dict[int, float]
    prefix_hit_first_token_s: float
    read_bandwidth_bytes_per_s: float
    weight_bytes_per_token: int
    phases: dict[str, PhaseTimes]
    memory: Memory | None = None


class Curves(msgspec.Struct, frozen=True):
    """Of a process that goes through batch sizes and prompt lengths."""

    decode_tokens_per_s: dict[int, float]
    """Total by number of sequences."""
    context_tokens_per_s: dict[int, float]
    """Of one sequence, by tokens of its context."""
    first_token_s: dict[int, float]
    """By tokens of the prompt."""
    resident_bytes: dict[int, int]
    """By tokens of context."""


class Refusal(msgspec.Struct, frozen=True):
    """Instead of figures: what the child could not do."""

    message: str
    exit_code: int
