"""The real decoder behind the engine: random tiny weights, the C++ core, the seed guarantee."""

import functools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.engine.clients.messages import Abort, EngineEvent, SamplingParams, Submit, TokenOutput
from nestling.engine.clients.process_engine import ProcessEngine
from nestling.engine.config import EngineConfig, EngineKind
from nestling.engine.loop import EngineLoop
from nestling.engine.progress import EngineProgress
from nestling.engine.runners.load import load_runner, make_runner
from nestling.engine.runners.native import NativeRunner
from nestling.engine.runners.reference import ReferenceRunner
from nestling.engine.runners.runner import ModelRunner
from nestling.engine.sampler import RequestSampler
from nestling.errors import InvalidRequestError, ModelFileError, SettingsError
from nestling.model.batch import ForwardBatch
from nestling.weights.packing import WeightDtype
from tests.engine.helpers import collect
from tests.model.native_decoder import Native
from tests.model.session import make_decoder, one_shot
from tests.model.tiny import TINY, random_checkpoint, token_ids
from tests.weights.tiny_files import random_weights, write_folder

PARAMS = [
    SamplingParams(max_tokens=24, seed=11),
    SamplingParams(max_tokens=40, temperature=0, seed=1),
    SamplingParams(max_tokens=30, seed=12, temperature=1.5, top_k=50, top_p=0.9, min_p=0.01),
    SamplingParams(max_tokens=30, seed=13, repetition_penalty=1.2, frequency_penalty=0.3),
]
LENGTHS = [3, 40, 17, 90, 1, 33, 64, 5]


def runner(num_blocks: int, num_threads: int = 2, dtype: WeightDtype = "auto") -> NativeRunner:
    config = EngineConfig(
        model="-",
        dtype=dtype,
        num_threads=num_threads,
        num_blocks=num_blocks,
        num_sliding_blocks=64,
        max_num_batched_tokens=300,
    )
    return NativeRunner(random_checkpoint(TINY), config)


def requests() -> list[Submit]:
    return [
        Submit(str(i), token_ids(TINY, length, seed=i), PARAMS[i % len(PARAMS)])
        for i, length in enumerate(LENGTHS)
    ]


def run(
    subject: ModelRunner, submits: list[Submit], *, arrive_every: int, **settings: int
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
def alone(dtype: WeightDtype = "auto") -> dict[str, list[int]]:
    """Each request in an engine of its own, whole prompts, one thread."""
    result: dict[str, list[int]] = {}
    for submit in requests():
        tokens, _ = run(runner(32, 1, dtype), [submit], arrive_every=0, max_num_batched_tokens=256)
        result |= tokens
    return result


@pytest.mark.parametrize("dtype", ["float32", "q4"])
def test_same_request_and_seed_same_tokens_under_any_load(dtype: WeightDtype) -> None:
    expected = alone(dtype)
    loads = [
        {"num_blocks": 12, "max_num_seqs": 8, "max_num_batched_tokens": 13, "every": 0},
        {"num_blocks": 9, "max_num_seqs": 4, "max_num_batched_tokens": 64, "every": 3},
        {"num_blocks": 64, "max_num_seqs": 8, "max_num_batched_tokens": 300, "every": 1},
    ]
    num_preemptions = 0
    for load in loads:
        tokens, preempted = run(
            runner(load["num_blocks"], dtype=dtype),
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
    decoder = make_decoder(TINY, native=Native(dtype="auto"))
    ids = list(submit.prompt_token_ids)
    for _ in range(24):
        ids.append(sampler.sample(one_shot(decoder, ids)[-1])[0])
    assert alone()["0"] == ids[len(submit.prompt_token_ids) :]


def test_score_gives_every_row_in_chunks() -> None:
    subject = runner(4)
    ids = token_ids(TINY, 400, seed=5)  # more than one chunk
    decoder = make_decoder(TINY, native=Native(dtype="auto", max_rows=400))
    np.testing.assert_array_equal(subject.score(np.array(ids, np.int32)), one_shot(decoder, ids))
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
    """`python -m nestling.engine.worker` with the real loader; equal to the loop in process."""
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


def test_the_reference_engine_scores_and_steps_like_the_native_one(folder: Path) -> None:
    ids = np.arange(2, 30, dtype=np.int32)
    runners = [
        load_runner(EngineConfig(model=str(folder), engine=engine, max_model_len=64))
        for engine in ("native", "reference")
    ]
    assert isinstance(runners[1], ReferenceRunner)
    native, reference = (runner.score(ids) for runner in runners)
    np.testing.assert_allclose(native, reference, atol=1e-3, rtol=0)
    params = SamplingParams(max_tokens=12, temperature=0)
    tokens = [
        run(runner, [Submit("0", [2, 5, 6], params)], arrive_every=0)[0] for runner in runners
    ]
    assert tokens[0] == tokens[1]


def test_embedding_tables_may_be_copied_into_memory(folder: Path) -> None:
    """What gathering rows from the file saves is measured by this switch."""
    ids = np.arange(2, 12, dtype=np.int32)

    def scores(*off: str) -> NDArray[np.float32]:
        config = EngineConfig(model=str(folder), num_threads=1, switches_off=off)
        subject = load_runner(config)
        assert isinstance(subject, NativeRunner)
        is_copied = [table.base is None for table in subject._tables]
        assert is_copied == [bool(off)] * 2
        return subject.score(ids)

    np.testing.assert_array_equal(scores(), scores("gathered_embeddings"))


def test_blocks_hold_whole_key_groups(folder: Path) -> None:
    with pytest.raises(SettingsError, match="block_size: expected a multiple of 16, got 8"):
        load_runner(EngineConfig(model=str(folder), block_size=8))


def test_steps_share_the_memory_of_their_logits() -> None:
    """Wide steps would take 64 MiB of fresh pages each; narrow ones after them take a part."""
    model = runner(num_blocks=40)

    def execute(num_seqs: int) -> NDArray[np.float32]:
        ids = np.arange(num_seqs, dtype=np.int32)
        blocks = ids[:, None]
        return model.execute(
            ForwardBatch(
                input_ids=ids,
                positions=np.zeros(num_seqs, np.int32),
                query_start_loc=np.arange(num_seqs + 1, dtype=np.int32),
                block_size=16,
                full_block_table=blocks,
                sliding_block_table=blocks,
                logit_rows=ids,
            )
        )

    wide = execute(8)
    first = wide[:3].copy()
    narrow = execute(3)
    assert narrow.shape == (3, TINY.num_text_tokens)
    assert np.shares_memory(narrow, wide)
    np.testing.assert_array_equal(narrow, first)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_step_shows_progress_within_each_layer(engine: EngineKind) -> None:
    """A hang would be seen by its absence, and a slow layer is no hang."""
    progress = EngineProgress()
    config = EngineConfig(model="-", engine=engine, num_blocks=16)
    subject = make_runner(random_checkpoint(TINY), config, progress)
    assert engine == "reference" or progress.loaded_bytes[0] == progress.loaded_bytes[1] > 0
    loop = EngineLoop(subject, config, lambda _: None)  # whose own steps count elsewhere
    loop.post(Submit("a", token_ids(TINY, 30, seed=1), SamplingParams(max_tokens=2, seed=1)))
    before = progress.total()
    loop.step()
    assert progress.total() - before >= TINY.num_hidden_layers - TINY.num_kv_shared_layers
