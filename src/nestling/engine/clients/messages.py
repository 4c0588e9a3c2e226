"""Messages between the engine and everything above it: plain data about token ids.

The same structs go over the socket to the engine process (msgpack) and through the in-process
client. Nothing here knows text, HTTP, keys or people.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort"]
MAX_COUNT = 2**31 - 1
"""Of counts that have no other maximum."""
MAX_LOGIT_BIAS = 100.0
RANGES: Mapping[str, tuple[float, float]] = {
    "max_tokens": (1, MAX_COUNT),
    "temperature": (0, 2),
    "top_k": (0, MAX_COUNT),
    "top_p": (0.01, 1),
    "top_a": (0, 1),
    "min_p": (0, 1),
    # Logits lie within +-30: beyond these all penalties act alike, and float32 stays finite.
    "repetition_penalty": (1e-4, 1e4),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "seed": (1, 2**63 - 1),
    "choice_index": (0, MAX_COUNT),
    "logprobs": (0, 20),
}
"""Least and most of the numbers in `SamplingParams`; readers and the engine's guard use them."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """Tells how to choose tokens; formulas and order in docs/model.md, "Sampling".

    Neutral values switch a step off: temperature 1, top_k 0, top_p 1, top_a 0, min_p 0,
    repetition_penalty 1, frequency_penalty 0, presence_penalty 0. `temperature` 0 is greedy.
    """

    max_tokens: int = 512
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    top_a: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """None draws a fresh seed from the operating system for this request."""
    choice_index: int = 0
    """Second half of the random key, so that the choices of one request differ."""
    logprobs: int | None = None
    """None: none. 0: of the chosen token. n: also of the n most likely tokens."""
    stop_token_ids: tuple[int, ...] = ()
    """Generation ends with finish_reason "stop" when one of these is chosen; it comes last."""


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities before any sampling parameter acts: of the chosen token and the best n."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


# --- to the engine -------------------------------------------------------------------------------


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Start a request. `request_id` is unique among the live ones."""

    request_id: str
    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    cache_salt: str = ""
    """Whose request it is: cached prefixes are shared under an equal salt alone."""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop a request wherever it is; unknown ids are ignored (it may just have finished)."""

    request_id: str


class GetStats(msgspec.Struct, frozen=True, tag="get_stats"):
    """Ask for one `Stats`; doubles as the health probe."""

    probe_id: int


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Abort everything and end the engine process."""


EngineCommand = Submit | Abort | GetStats | Shutdown

# --- from the engine -----------------------------------------------------------------------------


class EngineInfo(msgspec.Struct, frozen=True, tag="ready"):
    """Sent once, when the model is loaded."""

    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    num_blocks: int
    block_size: int


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """Sent instead of `EngineInfo` when the model cannot be loaded; the process then ends."""

    code: str
    message: str
    path: str | None = None
    """The file at fault, when `code` is that of a `ModelFileError`."""
    tensor: str | None = None


class TokenOutput(msgspec.Struct, frozen=True, tag="tokens"):
    """New tokens of one request. With `finish_reason` it is the request's last message."""

    request_id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] | None = None
    num_cached_tokens: int = 0
    """Of the prompt, those found in the prefix cache; the same in every output of a request."""


class RequestFailed(msgspec.Struct, frozen=True, tag="failed"):
    """The request ends without an answer: refused (bad, too long, overloaded) or failed."""

    request_id: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """A snapshot of the engine loop, answering `GetStats` number `probe_id`.

    Blocks are free when no live request holds them, even if a later request may find them cached.
    """

    probe_id: int
    num_waiting: int
    num_running: int
    num_free_blocks: int
    num_blocks: int
    num_free_sliding_blocks: int
    num_sliding_blocks: int
    num_steps: int
    num_prompt_tokens: int
    num_generated_tokens: int
    num_preemptions: int
    num_prefix_hits: int
    """Requests of which the cache had a beginning."""
    num_cached_tokens: int
    """Prompt tokens taken from the cache instead of being computed."""
    weight_bytes_read: int
    """By all steps so far, each matrix once a step; 0 if the runner does not count."""
    part_seconds: dict[str, float] = {}
    """Time of all steps so far: `step_profiler.PARTS`, and "model.*" for parts of "model"."""


EngineEvent = EngineInfo | LoadFailed | TokenOutput | RequestFailed | Stats
