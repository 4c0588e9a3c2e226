"""The real decoder behind the engine: random tiny weights, the C++ core, the seed guarantee."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from nestling.engine.config import EngineConfig
from nestling.engine.loop import EngineLoop
from nestling.engine.messages import Abort, EngineEvent, SamplingParams, Submit, TokenOutput
from nestling.engine.remote import ProcessEngine
from nestling.engine.runner import DecoderRunner, load_runner, rows_per_step
from nestling.engine.sampler import RequestSampler
from nestling.errors import InvalidRequestError, ModelFileError
from nestling.model.kernels import NativeKernels
from tests.model.session import make_decoder, one_shot
from tests.model.tiny import TINY, token_ids
from tests.weights.tiny_files import random_weights, write_folder

from .helpers import collect

PARAMS = [
    SamplingParams(max_tokens=24, seed=11),
    SamplingParams(max_tokens=40, temperature=0, seed=1),
    SamplingParams(max_tokens=30, seed=12, temperature=1.5, top_k=50, top_p=0.9, min_p=0.01),
    SamplingParams(max_tokens=30, seed=13, repetition_penalty=1.2, frequency_penalty=0.3),
]
LENGTHS = [3, 40, 17, 90, 1, 33, 64, 5]


def runner(num_blocks: int, num_threads: int = 2) -> DecoderRunner:
    decoder = make_decoder(TINY, kernels=NativeKernels(num_threads))
    return DecoderRunner(
        decoder,
        max_model_len=512,
        num_blocks=num_blocks,
        num_sliding_blocks=64,
        block_size=16,
        max_rows=256,
    )


def requests() -> list[Submit]:
    return [
        Submit(str(i), token_ids(TINY, length, seed=i), PARAMS[i % len(PARAMS)])
        for i, length in enumerate(LENGTHS)
    ]


def run(
    subject: DecoderRunner, submits: list[Submit], *, arrive_every: int, **settings: int
) -> tuple[dict[str, list[int]], int]:
    """Tokens by request, and the number of preemptions."""
    events: list[EngineEvent] = []
    loop = EngineLoop(subject, EngineConfig(model="-", **settings), events.extend)  # type: ignore[arg-type]
    for submit in submits:
        loop.post(submit)
        for _ in range(arrive_every):
            loop.step()
    for _ in range(3000):
        loop.step()
    tokens: dict[str, list[int]] = {submit.request_id: [] for submit in submits}
    for event in events:
        assert isinstance(event, TokenOutput)
        tokens[event.request_id] += event.token_ids
    stats = loop._stats(0)
    assert stats.num_free_blocks == stats.num_blocks
    assert stats.num_running == stats.num_waiting == 0
    return tokens, stats.num_preemptions


@functools.cache
def alone() -> dict[str, list[int]]:
    """Each request in an engine of its own, whole prompts, one thread."""
    result: dict[str, list[int]] = {}
    for submit in requests():
        tokens, _ = run(runner(32, 1), [submit], arrive_every=0, max_num_batched_tokens=256)
        result |= tokens
    return result


def test_same_request_and_seed_same_tokens_under_any_load() -> None:
    expected = alone()
    loads = [
        {"num_blocks": 12, "max_num_seqs": 8, "max_num_batched_tokens": 13, "every": 0},
        {"num_blocks": 9, "max_num_seqs": 4, "max_num_batched_tokens": 64, "every": 3},
        {"num_blocks": 64, "max_num_seqs": 8, "max_num_batched_tokens": 300, "every": 1},
    ]
    num_preemptions = 0
    for load in loads:
        tokens, preempted = run(
            runner(load["num_blocks"]),
            requests(),
            arrive_every=load["every"],
            max_num_seqs=load["max_num_seqs"],
            max_num_batched_tokens=load["max_num_batched_tokens"],
        )
        assert tokens == expected
        num_preemptions += preempted
    assert num_preemptions > 3  # else the load proves too little


def test_aborts_of_neighbours_change_nothing() -> None:
    expected = alone()
    events: list[EngineEvent] = []
    config = EngineConfig(model="-", max_num_seqs=6, max_num_batched_tokens=20)
    loop = EngineLoop(runner(14), config, events.extend)
    for submit in requests():
        loop.post(submit)
    for step in range(600):
        if step in (2, 7, 15, 30):
            loop.post(Abort(str({2: 0, 7: 3, 15: 1, 30: 6}[step])))
        loop.step()
    for submit in requests():
        outputs = [
            event
            for event in events
            if isinstance(event, TokenOutput) and event.request_id == submit.request_id
        ]
        tokens = [token for output in outputs for token in output.token_ids]
        if outputs[-1].finish_reason == "abort":
            assert tokens == expected[submit.request_id][: len(tokens)]
        else:
            assert tokens == expected[submit.request_id]
    assert loop._stats(0).num_free_blocks == 14


def test_the_engine_samples_from_the_decoders_own_logits() -> None:
    """Not only equal to itself: against the decoder called directly, one shot per token."""
    submit = requests()[0]
    sampler = RequestSampler(
        submit.sampling_params,
        seed=11,
        prompt_token_ids=submit.prompt_token_ids,
        num_text_tokens=TINY.num_text_tokens,
    )
    decoder = make_decoder(TINY)
    ids = list(submit.prompt_token_ids)
    for _ in range(24):
        ids.append(sampler.sample(one_shot(decoder, ids)[-1])[0])
    assert alone()["0"] == ids[len(submit.prompt_token_ids) :]


def test_score_gives_every_row_in_chunks() -> None:
    subject = runner(4)
    ids = token_ids(TINY, 300, seed=5)  # more than one chunk
    np.testing.assert_array_equal(
        subject.score(np.array(ids, np.int32)), one_shot(make_decoder(TINY), ids)
    )
    for bad in ([], [544], [-1], [1] * 513):
        with pytest.raises(InvalidRequestError, match="token_ids"):
            subject.score(np.array(bad, np.int32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", random_weights())


def test_load_runner_reads_a_folder_and_caps_the_context(folder: Path) -> None:
    subject = load_runner(EngineConfig(model=str(folder), max_model_len=64))
    assert (subject.max_model_len, subject.vocab_size, subject.num_text_tokens) == (64, 96, 80)
    assert load_runner(EngineConfig(model=str(folder), max_model_len=999)).max_model_len == 128
    with pytest.raises(ModelFileError, match="nowhere"):
        load_runner(EngineConfig(model=str(folder.parent / "nowhere")))


def test_dtype_acts(folder: Path) -> None:
    ids = np.arange(2, 12, dtype=np.int32)
    logits = {
        dtype: load_runner(EngineConfig(model=str(folder), dtype=dtype)).score(ids)
        for dtype in ("auto", "float32", "bfloat16")
    }
    np.testing.assert_array_equal(logits["auto"], logits["float32"])
    assert 1e-5 < np.abs(logits["bfloat16"] - logits["float32"]).max() < 2.0


async def test_a_real_engine_process_answers(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`python -m nestling.engine.process` with the real loader; equal to the loop in process."""
    config = EngineConfig(model=str(folder), num_threads=1)
    client = ProcessEngine(config)
    await client.start()
    params = SamplingParams(max_tokens=12, seed=3)
    tokens, reason = await collect(client, "0", [2, 5, 6], params)
    assert reason == "length"
    expected, _ = run(load_runner(config), [Submit("0", [2, 5, 6], params)], arrive_every=0)
    assert tokens == expected["0"]
    await client.stop()
    assert capfd.readouterr() == ("", "")  # it leaves without a word, say of leaked objects


async def test_a_missing_model_is_a_model_file_error_in_the_parent(tmp_path: Path) -> None:
    client = ProcessEngine(EngineConfig(model=str(tmp_path / "none.gguf")))
    with pytest.raises(ModelFileError, match=r"none\.gguf: does not exist") as info:
        await client.start()
    assert info.value.exit_code == 2


def test_a_step_computes_fewer_rows_of_a_larger_model() -> None:
    """A prompt chunk of the real model must not stall running streams for minutes."""
    e4b = dataclasses.replace(
        TINY,
        vocab_size=262400,
        hidden_size=2048,
        intermediate_size=tuple(16384 for _ in TINY.layer_types),
    )
    assert rows_per_step(TINY) == 256
    assert 16 <= rows_per_step(e4b) < 256
