"""One live request inside the engine loop: its tokens and how far they are computed."""

from dataclasses import dataclass, field

from nestling.engine.clients.messages import SamplingParams


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """Mutable state of one request, owned by the scheduler; compared by identity."""

    request_id: str
    token_ids: list[int]
    """The prompt, then what was generated."""
    num_prompt_tokens: int
    sampling_params: SamplingParams
    max_tokens: int
    """Tokens to generate at most, capped to the context."""
    seed: int
    cache_salt: str = ""
    """Only requests with the same salt share cached prefixes."""
    num_computed_tokens: int = 0
    """Tokens whose keys and values are in the cache; 0 again after preemption."""
    num_cached_tokens: int | None = None
    """Of the prompt, those that the prefix cache had at the first admission; None before it."""
    block_digests: list[bytes] = field(default_factory=list)
    """Names of the first full blocks of `token_ids`; grown by the KV cache manager."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_missing_tokens(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 while decoding."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens
