"""The engine loop: drain commands, schedule, run the model, sample, tell. One thread owns it all.

Others only `post` commands; answers leave through `emit`, in the loop's thread. Each request gets
exactly one last event: a `TokenOutput` with a finish reason, or a `RequestFailed`.
"""

import logging
import queue
import time
from collections.abc import Callable, Sequence

from nestling.engine.admission import RequestLimits, admit
from nestling.engine.batch_builder import build_batch
from nestling.engine.clients.messages import (
    Abort,
    EngineCommand,
    EngineEvent,
    EngineInfo,
    FinishReason,
    GetStats,
    RequestFailed,
    Shutdown,
    Stats,
    Submit,
    TokenOutput,
)
from nestling.engine.config import EngineConfig
from nestling.engine.kv.manager import KVCacheManager
from nestling.engine.prefill_budget import PrefillBudget
from nestling.engine.progress import EngineProgress
from nestling.engine.request import Request
from nestling.engine.runners.runner import Logits, ModelRunner
from nestling.engine.sampler import RequestSampler
from nestling.engine.scheduler import Scheduler, SchedulerOutput
from nestling.engine.step_profiler import StepProfiler
from nestling.errors import EngineError, InvalidRequestError, NestlingError, OverloadedError

logger = logging.getLogger(__name__)

Emit = Callable[[Sequence[EngineEvent]], None]


class EngineLoop:
    """All mutable state of an engine: scheduler and KV blocks, runner, samplers.

    `clock` gives seconds; how long steps take decides how many prompt rows the next ones get.
    """

    def __init__(
        self,
        runner: ModelRunner,
        config: EngineConfig,
        emit: Emit,
        clock: Callable[[], float] = time.monotonic,
        progress: EngineProgress | None = None,
    ) -> None:
        self._runner = runner
        self._progress = progress or EngineProgress()
        self._emit = emit
        self._clock = clock
        self._prefill_budget = PrefillBudget(config.max_step_s)
        max_rows = config.max_num_batched_tokens or runner.max_rows
        self._kv = KVCacheManager(
            num_blocks=runner.num_blocks,
            num_sliding_blocks=runner.num_sliding_blocks,
            block_size=runner.block_size,
            sliding_window=runner.sliding_window,
            max_rows=max_rows,
            prefix_caching=config.prefix_caching,
        )
        self._scheduler = Scheduler(
            self._kv,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=max_rows,
            max_waiting=config.max_waiting,
        )
        self._limits = RequestLimits(
            vocab_size=runner.vocab_size,
            num_text_tokens=runner.num_text_tokens,
            max_model_len=runner.max_model_len,
            num_cache_slots=self._kv.num_slots,
        )
        self._max_num_seqs = config.max_num_seqs
        self._samplers: dict[str, RequestSampler] = {}
        self._commands: queue.SimpleQueue[EngineCommand] = queue.SimpleQueue()
        self._events: list[EngineEvent] = []
        self._is_stopping = False
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_generated_tokens = 0
        self._num_preemptions = 0
        self._times = StepProfiler()

    @property
    def info(self) -> EngineInfo:
        """`max_model_len` is what one request can really hold, by context and cache."""
        return EngineInfo(
            vocab_size=self._runner.vocab_size,
            max_model_len=self._limits.max_len,
            max_num_seqs=self._max_num_seqs,
            num_blocks=self._kv.full_pool.num_blocks,
            block_size=self._kv.block_size,
        )

    def post(self, command: EngineCommand) -> None:
        """Leave a command for the next step; callable from any thread."""
        self._commands.put(command)

    def run(self) -> None:
        """Work until `Shutdown`; sleep while no request is live."""
        while not self._is_stopping:
            self._drain(may_wait=not self._scheduler.live)
            self.step()

    def step(self) -> None:
        """Do the posted commands and compute one step; never waits."""
        self._drain(may_wait=False)
        if self._scheduler.live:
            self._compute()
        if self._events:
            events, self._events = self._events, []
            self._emit(events)

    # --- commands --------------------------------------------------------------------------------

    def _drain(self, *, may_wait: bool) -> None:
        if may_wait:
            self._handle(self._commands.get())
        while not self._commands.empty():
            self._handle(self._commands.get())

    def _handle(self, command: EngineCommand) -> None:
        self._progress.move()
        match command:
            case Submit():
                self._submit(command)
            case Abort(request_id):
                if self._scheduler.is_live(request_id):
                    self._finish(request_id, "abort")
            case GetStats(probe_id):
                self._events.append(self._stats(probe_id))
            case Shutdown():
                self._is_stopping = True
                for request in self._scheduler.live:
                    self._finish(request.request_id, "abort")

    def _submit(self, submit: Submit) -> None:
        request_id = submit.request_id
        try:
            if self._scheduler.is_live(request_id):
                raise InvalidRequestError(
                    f"request_id {request_id!r} is in use", param="request_id"
                )
            request = admit(submit, self._limits)
            self._scheduler.add(request)
        except NestlingError as error:
            retry_after_s = error.retry_after_s if isinstance(error, OverloadedError) else None
            self._events.append(
                RequestFailed(request_id, error.code, error.message, error.param, retry_after_s)
            )
            return
        self._samplers[request_id] = RequestSampler(
            request.sampling_params,
            seed=request.seed,
            prompt_token_ids=submit.prompt_token_ids,
            num_text_tokens=self._limits.num_text_tokens,
        )

    def _stats(self, probe_id: int) -> Stats:
        num_free_blocks, num_free_sliding_blocks = self._kv.num_free
        return Stats(
            probe_id=probe_id,
            num_waiting=self._scheduler.num_waiting,
            num_running=self._scheduler.num_running,
            num_free_blocks=num_free_blocks,
            num_blocks=self._kv.full_pool.num_blocks,
            num_free_sliding_blocks=num_free_sliding_blocks,
            num_sliding_blocks=self._kv.sliding_pool.num_blocks,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_preemptions=self._num_preemptions,
            num_prefix_hits=self._kv.num_prefix_hits,
            num_cached_tokens=self._kv.num_cached_tokens,
            weight_bytes_read=self._runner.weight_bytes_read,
            part_seconds=self._part_seconds(),
        )

    def _part_seconds(self) -> dict[str, float]:
        """The loop's own parts, and those of the model within its part."""
        within = {f"model.{name}": s for name, s in self._runner.part_seconds().items()}
        return self._times.seconds() | within

    # --- one step --------------------------------------------------------------------------------

    def _compute(self) -> None:
        self._times.begin()
        begin_s = self._clock()
        output = self._scheduler.schedule(self._prefill_budget.max_prompt_rows())
        self._num_steps += 1
        self._num_preemptions += output.num_preempted
        try:
            batch = build_batch(output, self._kv)
            self._times.end("schedule")
            self._progress.move()
            logits = self._runner.execute(batch)
            self._progress.move()
        except Exception:  # whatever the model raised, the waiting requests go on
            logger.exception("a model step failed; its %d requests end", len(output.scheduled))
            for item in output.scheduled:
                self._fail(item.request, "the model could not compute this step")
            return
        self._scheduler.advance(output)
        self._times.end("model")
        self._sample(output, logits)
        self._times.end("sample")
        num_prompt_rows = output.num_tokens - output.num_decode_requests
        self._prefill_budget.observe(
            output.num_decode_requests, num_prompt_rows, self._clock() - begin_s
        )

    def _sample(self, output: SchedulerOutput, logits: Logits) -> None:
        sampled = [item.request for item in output.scheduled if item.is_sampled]
        assert len(logits) == len(sampled)
        for request, row in zip(sampled, logits, strict=True):
            try:
                self._sample_one(request, row)
            except Exception:  # one request's fault must not end its neighbours
                logger.exception("sampling failed; one request ends")
                self._fail(request, "the next token could not be chosen")

    def _sample_one(self, request: Request, row: Logits) -> None:
        self._progress.move()
        token_id, logprobs = self._samplers[request.request_id].sample(row)
        if request.num_output_tokens == 0:
            self._num_prompt_tokens += request.num_prompt_tokens - (request.num_cached_tokens or 0)
        request.token_ids.append(token_id)
        self._num_generated_tokens += 1
        finish_reason: FinishReason | None = None
        if token_id in request.sampling_params.stop_token_ids:
            finish_reason = "stop"
        elif request.num_output_tokens >= request.max_tokens:
            finish_reason = "length"
        if finish_reason is not None:
            self._remove(request.request_id)
        self._events.append(
            TokenOutput(
                request.request_id,
                [token_id],
                finish_reason,
                None if logprobs is None else [logprobs],
                request.num_cached_tokens or 0,
            )
        )

    # --- ends ------------------------------------------------------------------------------------

    def _finish(self, request_id: str, finish_reason: FinishReason) -> None:
        request = self._remove(request_id)
        self._events.append(
            TokenOutput(
                request_id, [], finish_reason, num_cached_tokens=request.num_cached_tokens or 0
            )
        )

    def _fail(self, request: Request, message: str) -> None:
        self._remove(request.request_id)
        self._events.append(RequestFailed(request.request_id, EngineError.code, message))

    def _remove(self, request_id: str) -> Request:
        request = self._scheduler.remove(request_id)
        assert request is not None
        del self._samplers[request_id]
        return request
