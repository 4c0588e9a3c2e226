"""The Python door: `LLM(model)` loads a model into this process and answers synchronously.

It runs the same engine loop as the server, in a thread, and its own asyncio loop in another.
Methods may be called from any thread; calls from several threads are batched together.
"""

import asyncio
import contextlib
import secrets
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload

import msgspec
import numpy as np
from numpy.typing import NDArray
from platformdirs import user_data_path

from nestling.chat.choice import Choice
from nestling.chat.request import ChatDelta
from nestling.chat.template import ChatMessage, Role, render_prompt
from nestling.chat.tokenizer import Tokenizer, end_token_ids, open_tokenizer
from nestling.engine.clients.messages import SamplingParams, Stats, Submit, TokenLogprobs
from nestling.engine.clients.thread_engine import ThreadEngine
from nestling.engine.config import EngineConfig, EngineKind
from nestling.engine.runners.load import make_runner
from nestling.errors import EngineError, InvalidRequestError, ModelFileError
from nestling.weights.catalog import find_model
from nestling.weights.checkpoint import load_checkpoint
from nestling.weights.packing import WeightDtype

T = TypeVar("T")
Messages = Sequence[ChatMessage | Mapping[str, str]]
DATA_DIR = user_data_path("nestling")
PACKED_DIR = DATA_DIR / "packed"
_ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Completion:
    """A finished answer. `token_ids` includes the end token, `text` does not."""

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    num_cached_tokens: int = field(default=0, compare=False)
    """Of the prompt, those found in the prefix cache; no part of the answer, so not compared."""


class LLM:
    """A Gemma 3n model in this process. Close it (or use `with`) to free its threads.

    Args:
        model: a name that `nestling models` lists (for the default data directory; settings are
            not read here), a folder, or a .gguf file.
        engine: "native" is the C++ core, "reference" slow numpy.
        dtype: how matrices are held; "auto" as the file has them; "float32", "float16", "bfloat16",
            or quantised at load to "q8" or "q4".
        threads: threads of one forward pass; None takes one for each usable core.
        max_model_len: prompt and answer together, in tokens; None takes the model's own bound.
        prefix_caching: take over what the cache still has of a prompt's beginning.
        packed_dir: folder for the packed weights of large models, to be mapped by later starts;
            None keeps none.
        switches_off: optimisations not to be used (`engine/config.py:SWITCHES`), to measure them.

    Raises:
        ModelNotFoundError, ModelFileError: there is no such model, or it cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path = "nestling-nano",
        *,
        engine: EngineKind = "native",
        dtype: WeightDtype = "auto",
        threads: int | None = None,
        max_model_len: int | None = None,
        prefix_caching: bool = True,
        packed_dir: str | Path | None = PACKED_DIR,
        switches_off: tuple[str, ...] = (),
    ) -> None:
        self.entry = find_model(str(model), DATA_DIR)
        checkpoint = load_checkpoint(self.entry.path)
        self._tokenizer = open_tokenizer(checkpoint)
        self._end_token_ids = end_token_ids(checkpoint)
        config = EngineConfig(
            model=str(self.entry.path),
            engine=engine,
            dtype=dtype,
            num_threads=threads or 0,
            max_model_len=max_model_len,
            prefix_caching=prefix_caching,
            packed_dir=None if packed_dir is None else str(packed_dir),
            switches_off=switches_off,
        )
        self._runner = make_runner(checkpoint, config)
        self._engine = ThreadEngine(config, load=lambda *_: self._runner)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()
        self._run(self._engine.start())

    # --- text ------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; raises ModelFileError if the checkpoint has none."""
        if self._tokenizer is None:
            raise ModelFileError(self.entry.path, "expected a tokenizer.json, but there is none")
        return self._tokenizer

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text, without bos; no text gives a control token."""
        return self.tokenizer.encode(text)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, control tokens left out."""
        return self.tokenizer.decode(token_ids)

    # --- answers ---------------------------------------------------------------------------------

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        sampling_params: SamplingParams | None = None,
        *,
        stop: tuple[str, ...] = (),
        ignore_eos: bool = False,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: list[str],
        sampling_params: SamplingParams | None = None,
        *,
        stop: tuple[str, ...] = (),
        ignore_eos: bool = False,
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: str | Sequence[int] | list[str],
        sampling_params: SamplingParams | None = None,
        *,
        stop: tuple[str, ...] = (),
        ignore_eos: bool = False,
    ) -> Completion | list[Completion]:
        """Continue a prompt: plain text (bos is put before it) or token ids (taken as they are).

        A list of texts gives a list of completions, computed together. Ends at the model's end
        tokens unless `ignore_eos`, or before one of `stop`.
        """
        params = self._params(sampling_params, ignore_eos=ignore_eos)
        if isinstance(prompt, list) and prompt and all(isinstance(item, str) for item in prompt):
            texts = cast("list[str]", prompt)
            return self._run(
                self._complete_all([self._encode(text) for text in texts], params, stop)
            )
        single = cast("str | Sequence[int]", prompt)
        return self._run(self._complete(self._encode(single), params, stop))

    def chat(
        self,
        messages: Messages,
        sampling_params: SamplingParams | None = None,
        *,
        stop: tuple[str, ...] = (),
    ) -> Completion:
        """Answer a conversation of {"role", "content"} messages (or ChatMessage)."""
        prompt = render_prompt(_messages(messages), self.tokenizer)
        return self._run(self._complete(prompt, self._params(sampling_params), stop))

    def stream_chat(
        self,
        messages: Messages,
        sampling_params: SamplingParams | None = None,
        *,
        stop: tuple[str, ...] = (),
    ) -> "ChatStream":
        """Like `chat`, as an iterator of deltas; closing it early stops the answer."""
        prompt = render_prompt(_messages(messages), self.tokenizer)
        choice = Choice(self._engine, self.tokenizer, prompt, self._params(sampling_params), stop)
        return ChatStream(choice, len(prompt), self._loop)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits of every position, f32 [num_tokens, vocab]; works without a tokenizer."""
        try:
            ids = np.asarray(token_ids, np.int32)
        except OverflowError as error:
            raise InvalidRequestError(f"token_ids: {error}", param="token_ids") from error
        return self._runner.score(ids)

    def stats(self) -> Stats:
        """Counts of the engine so far and the seconds that each part of its steps took."""
        return self._run(self._engine.health())

    # --- life ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the engine and its threads; safe to call twice."""
        if self._thread.is_alive():
            self._run(self._engine.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise EngineError("this LLM is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _encode(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            return [self.tokenizer.bos_token_id, *self.tokenizer.encode(prompt)]
        return [int(token_id) for token_id in prompt]

    def _params(self, params: SamplingParams | None, *, ignore_eos: bool = False) -> SamplingParams:
        params = params or SamplingParams()
        if ignore_eos or params.stop_token_ids:
            return params
        return msgspec.structs.replace(params, stop_token_ids=self._end_token_ids)

    async def _complete_all(
        self, prompts: list[list[int]], params: SamplingParams, stop: tuple[str, ...]
    ) -> list[Completion]:
        return list(
            await asyncio.gather(*(self._complete(prompt, params, stop) for prompt in prompts))
        )

    async def _complete(
        self, prompt: list[int], params: SamplingParams, stop: tuple[str, ...]
    ) -> Completion:
        if self._tokenizer is None:
            return await self._complete_tokens(prompt, params, stop)
        choice = Choice(self._engine, self._tokenizer, prompt, params, stop)
        text = ""
        finish_reason = ""
        async for delta in choice.deltas():
            text += delta.text
            finish_reason = delta.finish_reason or finish_reason
        return Completion(
            text,
            choice.token_ids,
            finish_reason,
            prompt,
            choice.logprobs,
            choice.num_cached_tokens,
        )

    async def _complete_tokens(
        self, prompt: list[int], params: SamplingParams, stop: tuple[str, ...]
    ) -> Completion:
        """Tokens only, for a checkpoint without a tokenizer."""
        if stop:
            raise InvalidRequestError("stop: expected none, as this model has no tokenizer")
        token_ids: list[int] = []
        finish_reason = ""
        num_cached_tokens = 0
        submit = Submit(secrets.token_hex(12), prompt, params)
        async for output in self._engine.generate(submit):
            token_ids += output.token_ids
            finish_reason = output.finish_reason or finish_reason
            num_cached_tokens = output.num_cached_tokens
        return Completion("", token_ids, finish_reason, prompt, num_cached_tokens=num_cached_tokens)


class ChatStream:
    """The deltas of one answer, read synchronously; a context manager that stops it early."""

    def __init__(
        self, choice: Choice, num_prompt_tokens: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._choice = choice
        self._deltas: AsyncGenerator[ChatDelta, None] = choice.deltas()
        self._loop = loop
        self.num_prompt_tokens = num_prompt_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""
        return self._choice.num_tokens

    def __iter__(self) -> Iterator[ChatDelta]:
        return self

    def __next__(self) -> ChatDelta:
        try:
            return self._wait(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> ChatDelta:
        return await anext(self._deltas)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the answer if it still runs."""
        self._wait(self._close())

    async def _close(self) -> None:
        await self._deltas.aclose()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # An interrupt in this thread must not leave the step running on the loop's thread.
            future.cancel()
            with contextlib.suppress(BaseException):
                future.result(timeout=1)
            raise


def _messages(messages: Messages) -> tuple[ChatMessage, ...]:
    checked = []
    for index, message in enumerate(messages):
        if isinstance(message, ChatMessage):
            checked.append(message)
            continue
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES or not isinstance(content, str):
            raise InvalidRequestError(
                f"messages[{index}]: expected a role of {', '.join(_ROLES)} and a text content, "
                f"got role {role!r} and content of type {type(content).__name__}",
                param=f"messages[{index}]",
            )
        checked.append(ChatMessage(cast("Role", role), content))
    if not checked:
        raise InvalidRequestError("messages: expected at least one message", param="messages")
    return tuple(checked)
