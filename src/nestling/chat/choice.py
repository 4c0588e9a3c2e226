"""Turns the tokens of one answer into text: whole characters, cut before a stop string."""

import contextlib
import secrets
from collections import deque
from collections.abc import AsyncGenerator

from nestling.chat.detokenizer import IncrementalDetokenizer
from nestling.chat.request import AlternativeToken, ChatDelta, ChatFinishReason, TokenLogprob
from nestling.chat.stop import StopMatcher
from nestling.chat.tokenizer import Tokenizer
from nestling.engine.clients.client import EngineClient
from nestling.engine.clients.messages import SamplingParams, Submit, TokenLogprobs, TokenOutput
from nestling.errors import EngineError


class Choice:
    """Submits one request and turns its tokens into deltas."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        prompt_token_ids: list[int],
        sampling_params: SamplingParams,
        stop: tuple[str, ...],
        cache_salt: str = "",
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._submit = Submit(secrets.token_hex(12), prompt_token_ids, sampling_params, cache_salt)
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._stop = StopMatcher(stop)
        self._num_decoded = 0
        """Characters of all tokens so far."""
        self._num_shown = 0
        self._unshown: deque[tuple[int, TokenLogprobs]] = deque()
        """Where tokens begin in the text, and their logprobs, until that much is shown."""
        self.token_ids: list[int] = []
        """Generated so far, the end token and tokens of a stop string included."""
        self.logprobs: list[TokenLogprobs] | None = None
        """Of `token_ids`, if asked for."""
        self.num_cached_tokens = 0
        """Of the prompt, those that the engine had in its prefix cache."""

    @property
    def max_tokens(self) -> int:
        """Return the most tokens that the answer may get."""
        return self._submit.sampling_params.max_tokens

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens generated so far."""
        return len(self.token_ids)

    async def deltas(self) -> AsyncGenerator[ChatDelta, None]:
        """Yield what the answer gains with each engine output. The last has a finish_reason."""
        async with contextlib.aclosing(self._engine.generate(self._submit)) as outputs:
            async for output in outputs:
                self.num_cached_tokens = output.num_cached_tokens
                delta = self._take(output)
                if delta is not None:
                    yield delta
                if delta is not None and delta.finish_reason is not None:
                    return

    def _take(self, output: TokenOutput) -> ChatDelta | None:
        """Return the delta of one engine output, None if no text is certain yet."""
        text, num_used, is_stopped = self._push(output)
        self.token_ids += output.token_ids[:num_used]
        if output.logprobs is not None:
            self.logprobs = (self.logprobs or []) + output.logprobs[:num_used]
        reason = "stop" if is_stopped else _visible(output.finish_reason)
        if reason is not None and not is_stopped:
            tail, is_stopped = self._stop.push(self._detokenizer.flush())
            rest = ""
            if not is_stopped:
                rest, is_stopped = self._stop.flush()
            text += tail + rest
            reason = "stop" if is_stopped else reason
        self._num_shown += len(text)
        logprobs = None
        if output.logprobs is not None:
            logprobs = self._logprobs(is_all=reason is not None and not is_stopped)
        if not text and reason is None and not logprobs:
            return None
        index = self._submit.sampling_params.choice_index
        return ChatDelta(index, text, reason, logprobs)

    def _push(self, output: TokenOutput) -> tuple[str, int, bool]:
        """Return the text that is now certain, the tokens used, and whether a stop string came."""
        text = ""
        for number, token_id in enumerate(output.token_ids, 1):
            if token_id in self._submit.sampling_params.stop_token_ids:
                return text, number, False
            if output.logprobs is not None:
                self._unshown.append((self._num_decoded, output.logprobs[number - 1]))
            decoded = self._detokenizer.push(token_id)
            self._num_decoded += len(decoded)
            emitted, is_stopped = self._stop.push(decoded)
            text += emitted
            if is_stopped:
                return text, number, True
        return text, len(output.token_ids), False

    def _logprobs(self, *, is_all: bool) -> tuple[TokenLogprob, ...]:
        """Return log-probabilities of tokens that begin in the shown text, or of all that wait.

        So they come with their text, and tokens that a stop string swallows have none.
        """
        entries = []
        while self._unshown and (is_all or self._unshown[0][0] < self._num_shown):
            entries.append(self._entry(self._unshown.popleft()[1]))
        return tuple(entries)

    def _entry(self, entry: TokenLogprobs) -> TokenLogprob:
        return TokenLogprob(
            self._alternative(entry.token_id, entry.logprob),
            tuple(self._alternative(token_id, logprob) for token_id, logprob in entry.top),
        )

    def _alternative(self, token_id: int, logprob: float) -> AlternativeToken:
        return AlternativeToken(
            self._tokenizer.token_text(token_id),
            self._tokenizer.token_bytes(token_id) or None,
            logprob,
        )


def _visible(reason: str | None) -> ChatFinishReason | None:
    """Return the engine's reason as clients see it. Nobody reads an aborted answer to its end."""
    if reason == "abort":
        raise EngineError("The request was aborted.")
    if reason in ("stop", "length"):
        return "stop" if reason == "stop" else "length"
    return None
