"""Keeps a conversation: its history, sampling parameters and the figures of the last answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import msgspec

from nestling.chat.fields import Reader, wrong_type
from nestling.chat.request import ChatDelta
from nestling.chat.sampling import MAX_TOKENS, SAMPLING_FIELDS
from nestling.chat.template import ChatMessage
from nestling.engine.clients.messages import SamplingParams
from nestling.errors import InvalidRequestError
from nestling.llm import LLM
from nestling.plain_text import NotUtf8Error, check_decoded

SETTABLE: Mapping[str, Reader] = {**SAMPLING_FIELDS, "max_tokens": MAX_TOKENS}
"""The parameters that `/set` and the options may change."""


def checked_text(name: str, text: str) -> str:
    """Return `text`; raise InvalidRequestError if a person has typed what is not UTF-8."""
    try:
        check_decoded(text)
    except NotUtf8Error as error:
        raise InvalidRequestError(f"{name} cannot be read: {error}") from None
    return text


@dataclass
class Session:
    """One conversation with one model; `history` holds only whole exchanges."""

    llm: LLM
    params: SamplingParams
    system: str = ""
    history: list[ChatMessage] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    ttft_s: float = 0.0
    e2e_latency_s: float = 0.0

    def set(self, name: str, value: str) -> None:
        """Change a sampling parameter; raises InvalidRequestError that says what fits."""
        if name not in SETTABLE:
            raise InvalidRequestError(f"{name!r} cannot be set; known are {', '.join(SETTABLE)}")
        try:
            number = int(value) if value.isdecimal() else float(value)
        except ValueError:
            raise wrong_type(name, "a number", value) from None
        number = SETTABLE[name].read(name, number)
        self.params = msgspec.structs.replace(self.params, **{name: number})

    def ask(self, text: str) -> Iterator[ChatDelta]:
        """Stream the answer to `text`; the exchange enters the history when it has ended."""
        messages = [ChatMessage("system", self.system)] if self.system else []
        messages += [*self.history, ChatMessage("user", text)]
        start = perf_counter()
        self.ttft_s = 0.0
        answer = ""
        with self.llm.stream_chat(messages, self.params) as stream:
            for delta in stream:
                self.ttft_s = self.ttft_s or perf_counter() - start
                answer += delta.text
                yield delta
            self.num_prompt_tokens = stream.num_prompt_tokens
            self.num_tokens = stream.num_tokens
        self.e2e_latency_s = perf_counter() - start
        self.history += [ChatMessage("user", text), ChatMessage("assistant", answer)]

    def stats(self) -> str:
        """Return the figures of the last answer in one line."""
        decode_s = self.e2e_latency_s - self.ttft_s
        rate = (self.num_tokens - 1) / decode_s if decode_s > 0 and self.num_tokens > 1 else 0.0
        return (
            f"{self.num_prompt_tokens} prompt tokens, {self.num_tokens} generated, first after "
            f"{self.ttft_s * 1000:.0f} ms, then {rate:.0f} tokens/s"
        )
