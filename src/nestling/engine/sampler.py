"""Turns a row of logits into a token: bias, penalties, log-probabilities, the request's own draw.

The order is that of docs/model.md, "Sampling": raw log-probabilities, logit_bias, repetition
penalty, frequency and presence penalties here in numpy; then temperature, top_k, top_p, top_a,
min_p and the draw in `native.sampling`. Runs in the engine loop's thread.
"""

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from nestling.engine.clients.messages import SamplingParams, TokenLogprobs
from nestling.native import sampling as native_sampling


def uniform(seed: int, choice_index: int, step: int) -> float:
    """The random number in [0, 1) of a request's token number `step`: Philox4x64, 53 bits.

    A pure function, so neither other requests nor a recomputation can change what is drawn.
    """
    key = np.array((seed, choice_index), np.uint64)
    counter = np.array((step, 0, 0, 0), np.uint64)
    return (int(Philox(key=key, counter=counter).random_raw()) >> 11) * 2.0**-53


class _TokenCounts:
    """Distinct token ids with their counts, as arrays that grow one token at a time."""

    def __init__(self, token_ids: list[int]) -> None:
        ids, counts = np.unique(np.array(token_ids, np.int64), return_counts=True)
        self._index: dict[int, int] = {int(token_id): i for i, token_id in enumerate(ids)}
        self._ids = ids
        self._counts = counts.astype(np.float32)

    @property
    def ids(self) -> NDArray[np.int64]:
        """[num_distinct]"""
        return self._ids[: len(self._index)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """[num_distinct], as often as each of `ids` was added."""
        return self._counts[: len(self._index)]

    def add(self, token_id: int) -> None:
        index = self._index.get(token_id)
        if index is None:
            index = len(self._index)
            self._index[token_id] = index
            if index == len(self._ids):
                self._ids = np.resize(self._ids, max(16, 2 * index))
                self._counts = np.resize(self._counts, max(16, 2 * index))
            self._ids[index] = token_id
            self._counts[index] = 0.0
        self._counts[index] += 1.0


class RequestSampler:
    """Chooses the tokens of one request, in turn."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,
        prompt_token_ids: list[int],
        num_text_tokens: int,
    ) -> None:
        self._params = params
        self._seed = seed
        self._num_text_tokens = num_text_tokens
        self._num_sampled = 0
        self._bias_ids = np.fromiter(params.logit_bias.keys(), np.int64)
        self._biases = np.fromiter(params.logit_bias.values(), np.float32)
        # Media ids lie above the text ones and have no logit that could be chosen.
        text_ids = [token_id for token_id in prompt_token_ids if token_id < num_text_tokens]
        self._seen = _TokenCounts(text_ids) if params.repetition_penalty != 1 else None
        has_counts = params.frequency_penalty != 0 or params.presence_penalty != 0
        self._generated = _TokenCounts([]) if has_counts else None

    def sample(self, logits: NDArray[np.float32]) -> tuple[int, TokenLogprobs | None]:
        """The next token, from f32 [vocab_size] soft-capped logits, which are not changed.

        Only the first `num_text_tokens` take part. Raises `ValueError` if one of them is NaN.
        """
        raw = logits[: self._num_text_tokens]
        params = self._params
        token_id = native_sampling.sample(
            self._processed(raw),
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            top_a=params.top_a,
            min_p=params.min_p,
            uniform=uniform(self._seed, params.choice_index, self._num_sampled),
        )
        self._num_sampled += 1
        if self._seen is not None:
            self._seen.add(token_id)
        if self._generated is not None:
            self._generated.add(token_id)
        if params.logprobs is None:
            return token_id, None
        return token_id, token_logprobs(raw, token_id, params.logprobs)

    def _processed(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Steps 2 to 4: a changed copy, or `raw` itself if none of them acts."""
        if not len(self._bias_ids) and self._seen is None and self._generated is None:
            return raw
        params = self._params
        logits = raw.copy()
        logits[self._bias_ids] += self._biases
        if self._seen is not None:
            penalty = np.float32(params.repetition_penalty)
            seen = logits[self._seen.ids]
            logits[self._seen.ids] = np.where(seen > 0, seen / penalty, seen * penalty)
        if self._generated is not None:
            counts = self._generated.counts
            logits[self._generated.ids] -= np.float32(
                params.frequency_penalty
            ) * counts + np.float32(params.presence_penalty)
        return logits


def token_logprobs(raw: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprobs:
    """Log-softmax of the model's own logits over the text tokens, before any parameter acts."""
    best = native_sampling.top_logprobs(raw, max(num_top, 1))
    top = zip(best.ids.tolist(), best.logprobs.tolist(), strict=True)
    chosen = float(np.float32(float(raw[token_id]) - best.logsumexp))  # as it stands in `top`
    return TokenLogprobs(token_id, chosen, tuple(top) if num_top else ())
