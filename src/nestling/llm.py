"""The Python door: `LLM(model)` loads a model into this process and answers synchronously.

It runs the same engine loop as the server, in a thread, and its own asyncio loop in another.
Methods may be called from any thread; calls from several threads are batched together.
"""

import asyncio
import concurrent.futures
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import msgspec
import numpy as np
from numpy.typing import NDArray
from platformdirs import user_data_path

from nestling.chat.arguments import as_json, read_sampling_params, read_stop, read_token_ids
from nestling.chat.choice import Choice
from nestling.chat.fields import Boolean, Integer, Text, read_array, wrong_type
from nestling.chat.files import FileLimits, FileReader
from nestling.chat.messages import MessageLimits, read_messages
from nestling.chat.prompts import (
    chat_prompt,
    check_ids,
    read_prompts,
    resolve_logit_bias,
    text_prompt,
)
from nestling.chat.request import ChatDelta
from nestling.chat.template import ChatMessage
from nestling.chat.tokenizer import Tokenizer, end_token_ids, open_tokenizer
from nestling.engine.clients.messages import SamplingParams, Stats, Submit, TokenLogprobs
from nestling.engine.clients.thread_engine import ThreadEngine
from nestling.engine.config import EngineConfig, EngineKind
from nestling.engine.progress import EngineProgress
from nestling.engine.runners.load import make_runner
from nestling.errors import EngineError, InvalidRequestError, ModelFileError
from nestling.native.system import MAX_THREADS
from nestling.weights.catalog import find_model
from nestling.weights.checkpoint import load_checkpoint
from nestling.weights.packing import WeightDtype
from nestling.weights.progress import Progress, no_progress

T = TypeVar("T")
TokenIds = Sequence[int] | NDArray[np.integer[Any]]
Prompt = str | TokenIds
Messages = Sequence[ChatMessage | Mapping[str, Any]]
Stop = str | Sequence[str] | None
DATA_DIR = user_data_path("nestling")
PACKED_DIR = DATA_DIR / "packed"


@dataclass(frozen=True)
class Completion:
    """Holds a finished answer. `token_ids` includes the end token, `text` does not."""

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    num_cached_tokens: int = field(default=0, compare=False)
    """Of the prompt, those found in the prefix cache; no part of the answer, so not compared."""


class LLM:
    """Runs a Gemma 3n model in this process. Close it (or use `with`) to free its threads.

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
        on_load: called with the bytes done and the bytes in total while weights are packed.

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
        switches_off: Sequence[str] = (),
        on_load: Progress = no_progress,
    ) -> None:
        if threads is not None:
            Integer(1, MAX_THREADS).read("threads", as_json(threads))
        if max_model_len is not None:
            Integer(2).read("max_model_len", as_json(max_model_len))
        switches = read_array("switches_off", as_json(switches_off))
        self.entry = find_model(_read_path("model", model), DATA_DIR)
        checkpoint = load_checkpoint(self.entry.path)
        self._tokenizer = open_tokenizer(checkpoint)
        self._end_token_ids = end_token_ids(checkpoint)
        config = EngineConfig(
            model=str(self.entry.path),
            engine=engine,
            dtype=dtype,
            num_threads=threads or 0,
            max_model_len=max_model_len,
            prefix_caching=Boolean().read("prefix_caching", prefix_caching),
            packed_dir=None if packed_dir is None else _read_path("packed_dir", packed_dir),
            switches_off=tuple(switches),
        )
        self._runner = make_runner(checkpoint, config, EngineProgress(on_load=on_load))
        self._engine = ThreadEngine(config, load=lambda *_: self._runner)
        self._loop_thread = _LoopThread()
        self._run = self._loop_thread.run
        try:
            self._run(self._engine.start())
        except BaseException:
            self._loop_thread.stop()
            raise

    # --- text ------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer. Raise ModelFileError if the checkpoint has none."""
        if self._tokenizer is None:
            raise ModelFileError(self.entry.path, "expected a tokenizer.json, but there is none")
        return self._tokenizer

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of plain text, without bos. No text gives a control token."""
        return self.tokenizer.encode(Text().read("text", text))

    def detokenize(self, token_ids: TokenIds) -> str:
        """Return the text of token ids without control tokens."""
        tokenizer = self.tokenizer
        return tokenizer.decode(read_token_ids("token_ids", token_ids, tokenizer.vocab_size))

    # --- answers ---------------------------------------------------------------------------------

    @overload
    def generate(
        self,
        prompt: str | Sequence[int] | NDArray[np.integer[Any]],
        sampling_params: SamplingParams | None = None,
        *,
        stop: Stop = (),
        ignore_eos: bool = False,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        sampling_params: SamplingParams | None = None,
        *,
        stop: Stop = (),
        ignore_eos: bool = False,
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | None = None,
        *,
        stop: Stop = (),
        ignore_eos: bool = False,
    ) -> Completion | list[Completion]:
        """Continue a prompt: plain text (bos is put before it) or token ids (taken as they are).

        A list of prompts gives a list of completions, computed together. Generation ends at the
        model's end tokens unless `ignore_eos`, or before a text of `stop`. Ctrl-C cancels it.
        """
        value = as_json(prompt)
        prompts = read_prompts(value, self._runner.max_model_len)
        how = self._how(sampling_params, stop, ignore_eos=ignore_eos)
        if isinstance(value, list) and isinstance(value[0], (str, list)):
            named = [(f"prompt[{i}]", item) for i, item in enumerate(prompts)]
            return self._run(self._complete_all([self._encode(*pair) for pair in named], how))
        return self._run(self._complete(self._encode("prompt", prompts[0]), how))

    def chat(
        self,
        messages: Messages,
        sampling_params: SamplingParams | None = None,
        *,
        stop: Stop = (),
    ) -> Completion:
        """Answer a conversation of {"role", "content"} messages, as the HTTP API takes them."""
        how = self._how(sampling_params, stop)
        return self._run(self._complete(self._chat_prompt(messages), how))

    def stream_chat(
        self,
        messages: Messages,
        sampling_params: SamplingParams | None = None,
        *,
        stop: Stop = (),
    ) -> "ChatStream":
        """Return an iterator over the deltas of the answer. Closing it early stops the answer."""
        params, stops = self._how(sampling_params, stop)
        prompt = self._chat_prompt(messages)
        choice = Choice(self._engine, self.tokenizer, prompt, params, stops)
        return ChatStream(choice, len(prompt), self._loop_thread)

    def logits(self, token_ids: TokenIds) -> NDArray[np.float32]:
        """Return the logits of every position, f32 [num_tokens, vocab]; no tokenizer is needed."""
        self._loop_thread.check_alive()
        ids = read_token_ids("token_ids", token_ids, self._runner.vocab_size)
        return self._runner.score(np.asarray(ids, np.int32))

    def stats(self) -> Stats:
        """Return the engine's counts so far and the seconds that each part of its steps took."""
        return self._run(self._engine.health())

    # --- life ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the engine and its threads. A second call does nothing."""
        if self._loop_thread.is_alive:
            self._run(self._engine.stop())
            self._loop_thread.stop()

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

    def _encode(self, name: str, prompt: str | tuple[int, ...]) -> list[int]:
        if isinstance(prompt, str):
            return text_prompt(name, prompt, self.tokenizer, self._runner.max_model_len)
        check_ids(name, prompt, self._num_text_tokens)
        return list(prompt)

    def _chat_prompt(self, messages: Messages) -> list[int]:
        limit = self._runner.max_model_len
        read = read_messages(as_json(messages), MessageLimits(max_messages=limit))
        if any(message.files for message in read):
            reader = FileReader(FileLimits(), lambda: limit, self.tokenizer)
            read = self._run(reader.read_all(read))
        return chat_prompt(read, self.tokenizer, limit)

    @property
    def _num_text_tokens(self) -> int:
        tokenizer = self._tokenizer
        return self._runner.vocab_size if tokenizer is None else tokenizer.num_text_tokens

    def _how(
        self, sampling_params: SamplingParams | None, stop: Stop, *, ignore_eos: bool = False
    ) -> "_How":
        """Return parameters and stop strings, both checked, for `Choice`."""
        self._loop_thread.check_alive()
        params, biases = read_sampling_params(sampling_params, self._num_text_tokens)
        if self._tokenizer is None:
            logit_bias = {int(key): bias for key, bias in biases.items()}
        else:
            logit_bias = resolve_logit_bias(biases, self._tokenizer)
        ends = params.stop_token_ids
        if not Boolean().read("ignore_eos", ignore_eos):
            ends = ends or self._end_token_ids
        params = msgspec.structs.replace(params, logit_bias=logit_bias, stop_token_ids=ends)
        return params, read_stop(stop)

    async def _complete_all(self, prompts: list[list[int]], how: "_How") -> list[Completion]:
        return list(await asyncio.gather(*(self._complete(prompt, how) for prompt in prompts)))

    async def _complete(self, prompt: list[int], how: "_How") -> Completion:
        if self._tokenizer is None:
            return await self._complete_tokens(prompt, how)
        choice = Choice(self._engine, self._tokenizer, prompt, *how)
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

    async def _complete_tokens(self, prompt: list[int], how: "_How") -> Completion:
        """Return tokens without text, for a checkpoint without a tokenizer."""
        params, stop = how
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


_How = tuple[SamplingParams, tuple[str, ...]]
"""Parameters and stop strings of a request."""


class ChatStream:
    """Yields the deltas of one answer to a caller that waits. Closing it stops the answer."""

    def __init__(self, choice: Choice, num_prompt_tokens: int, loop_thread: "_LoopThread") -> None:
        self._choice = choice
        self._deltas: AsyncGenerator[ChatDelta, None] = choice.deltas()
        self._loop_thread = loop_thread
        self._waiting: asyncio.Task[Any] | None = None
        self.num_prompt_tokens = num_prompt_tokens

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens generated so far."""
        return self._choice.num_tokens

    def __iter__(self) -> Iterator[ChatDelta]:
        return self

    def __next__(self) -> ChatDelta:
        delta = self._loop_thread.run(self._next())
        if delta is None:
            raise StopIteration
        return delta

    async def _next(self) -> ChatDelta | None:
        self._waiting = asyncio.current_task()
        try:
            return await anext(self._deltas, None)
        finally:
            self._waiting = None

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
        if self._loop_thread.is_alive:
            self._loop_thread.run(self._close())

    async def _close(self) -> None:
        """Close the deltas once nobody waits for the next one; an interrupted wait ends later."""
        if (waiting := self._waiting) is not None:
            if not waiting.cancelling():
                waiting.cancel()
            await asyncio.wait({waiting})
        await self._deltas.aclose()


class _LoopThread:
    """Runs an asyncio loop in a thread of its own, for callers that wait."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether it has not been stopped."""
        return self._thread.is_alive()

    def check_alive(self) -> None:
        """Raise EngineError if it has been stopped."""
        if not self.is_alive:
            raise EngineError("this LLM is closed")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns. An interrupt (Ctrl-C) of the caller cancels the work."""
        try:
            self.check_alive()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise EngineError("this LLM is closed") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Cancel what still runs, and end the thread."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


def _read_path(name: str, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise wrong_type(name, "a string or a path", value)
    return Text(1).read(name, os.fspath(value))
