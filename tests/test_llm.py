"""The Python door: text, tokens, logits; with the embedded model, and one without tokenizer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nestling import LLM, SamplingParams
from nestling.engine.step_profiler import PARTS
from nestling.errors import (
    ContextLengthExceededError,
    EngineError,
    InvalidRequestError,
    ModelFileError,
    ModelNotFoundError,
    SettingsError,
)
from nestling.weights.checkpoint import load_checkpoint
from nestling.weights.packing import WeightDtype
from tests.weights.tiny_files import random_weights, write_folder

ASK = [{"role": "user", "content": "Count from 3 to 7."}]
DTYPES: tuple[WeightDtype, ...] = ("auto", "float32", "bfloat16")
GREEDY = SamplingParams(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """The embedded model."""
    with LLM("nestling-nano") as model:
        yield model


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[LLM]:
    """A tiny random model in a folder that has no tokenizer."""
    write_folder(tmp_path, random_weights())
    with LLM(tmp_path, threads=1) as model:
        yield model


def test_chat_is_what_the_stream_adds_up_to(llm: LLM) -> None:
    """Same tokens, same text, one finish_reason; dictionaries and their text are enough."""
    whole = llm.chat(ASK, GREEDY)
    with llm.stream_chat(ASK, GREEDY) as stream:
        deltas = list(stream)
        assert stream.num_tokens == len(whole.token_ids)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [whole.finish_reason]
    assert llm.detokenize(whole.token_ids) == whole.text


def test_generate_continues_text_and_tokens(llm: LLM) -> None:
    """Plain text gets bos before it, ids are taken as they are; a list is computed together."""
    by_text = llm.generate("Hello", GREEDY)
    bos = llm.tokenizer.bos_token_id
    assert by_text == llm.generate([bos, *llm.tokenize("Hello")], GREEDY)
    assert llm.generate(["Hello", "Hello"], GREEDY) == [by_text, by_text]


def test_greedy_generation_follows_the_logits(llm: LLM) -> None:
    """Each greedy token is the argmax of the logits of all before it: one bit pattern for both."""
    prompt = [llm.tokenizer.bos_token_id, *llm.tokenize("My name is")]
    output = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=12), ignore_eos=True)
    logits = llm.logits([*prompt, *output.token_ids])
    assert logits.dtype == np.float32
    assert logits.shape == (len(prompt) + 12, llm.tokenizer.vocab_size)
    chosen = logits[len(prompt) - 1 : -1].argmax(axis=1)
    assert chosen.tolist() == output.token_ids


def test_a_seed_repeats_in_any_company(llm: LLM) -> None:
    """Calls from many threads share batches and keep their answers."""
    params = SamplingParams(seed=7, temperature=1.4, max_tokens=20)
    alone = llm.chat(ASK, params)
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(llm.chat, ASK, SamplingParams(max_tokens=9 + i)) for i in range(8)]
        same = [pool.submit(llm.chat, ASK, params) for _ in range(4)]
        assert all(future.result() == alone for future in same)
        assert all(len(future.result().token_ids) <= 17 for future in others)


def test_a_stop_string_ends_the_answer(llm: LLM) -> None:
    """Cut before it, finish_reason stop."""
    output = llm.chat(ASK, GREEDY, stop=("5",))
    assert output.finish_reason == "stop"
    assert "5" not in output.text


def test_closing_a_stream_early_leaves_the_model_usable(llm: LLM) -> None:
    """What Ctrl-C in the terminal does."""
    stream = llm.stream_chat(ASK, SamplingParams(max_tokens=500))
    next(stream)
    stream.close()
    assert list(stream) == []
    assert llm.chat(ASK, GREEDY).text


def test_a_model_without_tokenizer_serves_token_ids(bare: LLM) -> None:
    """Logits of every row and generation by ids; text is refused with the folder's name."""
    logits = bare.logits([5, 6, 7])
    assert logits.shape[0] == 3
    output = bare.generate([5, 6, 7], SamplingParams(temperature=0, max_tokens=3), ignore_eos=True)
    num_text_tokens = load_checkpoint(bare.entry.path).config.num_text_tokens
    assert output.token_ids[0] == int(logits[-1, :num_text_tokens].argmax())
    for use in (lambda: bare.tokenize("a"), lambda: bare.chat(ASK), lambda: bare.generate("a")):
        with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
            use()


@pytest.mark.parametrize("ids", [[], [-1], [10**9], [10**20], [5] * 100_000], ids=str)
def test_bad_token_ids_are_refused(bare: LLM, ids: list[int]) -> None:
    """By both doors, before any work."""
    with pytest.raises((InvalidRequestError, ContextLengthExceededError)):
        bare.generate(ids, GREEDY)
    with pytest.raises(InvalidRequestError, match="token_ids"):
        bare.logits(ids)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "robot", "content": "hi"}],
        [{"role": "user"}],
        [{"role": "user", "content": 5}],
    ],
    ids=str,
)
def test_bad_messages_are_refused(llm: LLM, messages: list[dict[str, str]]) -> None:
    """With the index and what was expected."""
    with pytest.raises(InvalidRequestError, match="messages"):
        llm.chat(messages)


def test_bad_sampling_parameters_are_refused(llm: LLM) -> None:
    """Python users get the field's name too."""
    with pytest.raises(InvalidRequestError, match="temperature"):
        llm.chat(ASK, SamplingParams(temperature=-1))


def test_dtypes_act(tmp_path: Path) -> None:
    """float32 is exact, "auto" equals it where bfloat16 would lose, bfloat16 differs a little."""
    write_folder(tmp_path, random_weights())
    found = {}
    for dtype in DTYPES:
        with LLM(tmp_path, dtype=dtype, threads=1) as model:
            found[dtype] = model.logits(list(range(3, 40)))
    assert np.array_equal(found["auto"], found["float32"])
    assert not np.array_equal(found["bfloat16"], found["float32"])


def test_stats_count_and_time(bare: LLM) -> None:
    """Steps, tokens and the seconds of each part, all at zero before the first request."""
    begin = bare.stats()
    assert begin.num_steps == 0
    assert begin.weight_bytes_read == 0
    assert set(begin.part_seconds.values()) == {0.0}
    bare.generate([5, 6, 7], SamplingParams(max_tokens=4), ignore_eos=True)
    end = bare.stats()
    assert (end.num_steps, end.num_prompt_tokens, end.num_generated_tokens) == (4, 3, 4)
    assert end.weight_bytes_read > 0
    bare.logits([5, 6, 7] * 30)  # no step of the engine
    after = bare.stats()
    assert after.weight_bytes_read == end.weight_bytes_read
    assert after.part_seconds == pytest.approx(end.part_seconds)
    within = {part for part in end.part_seconds if part.startswith("model.")}
    assert set(end.part_seconds) == set(PARTS) | within
    assert {"model.attention", "model.feed_forward", "model.altup", "model.head"} <= within
    assert all(0 < seconds < 60 for seconds in end.part_seconds.values())
    assert sum(end.part_seconds[part] for part in within) <= end.part_seconds["model"]


def test_unknown_switches_are_refused() -> None:
    """By name."""
    with pytest.raises(SettingsError, match="warp"):
        LLM("nestling-nano", switches_off=("warp",))


def test_the_reference_engine_agrees(tmp_path: Path) -> None:
    """numpy alone, within rounding; it takes no threads."""
    write_folder(tmp_path, random_weights())
    ids = list(range(3, 40))
    with LLM(tmp_path, threads=1) as model:
        expected = model.logits(ids)
    with LLM(tmp_path, engine="reference") as model:
        found = model.logits(ids)
        assert len(model.generate(ids, GREEDY, ignore_eos=True).token_ids) == 24
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
    assert not np.array_equal(found, expected)
    with pytest.raises(SettingsError, match="num_threads"):
        LLM(tmp_path, engine="reference", threads=1)


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_a_prompt_is_computed_once(tmp_path: Path, *, prefix_caching: bool) -> None:
    """The second time it comes from the cache, unless that is switched off; the answer is equal."""
    write_folder(tmp_path, random_weights())
    with LLM(tmp_path, threads=1, prefix_caching=prefix_caching) as model:
        first, second = (model.generate(list(range(3, 40)), GREEDY) for _ in range(2))
    assert first == second
    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens == (32 if prefix_caching else 0)


def test_unknown_models_are_refused(tmp_path: Path) -> None:
    """A name, and a folder without a model."""
    with pytest.raises(ModelNotFoundError, match="nestling-nano"):
        LLM("no-such-model")
    with pytest.raises(ModelFileError, match=r"config\.json"):
        LLM(tmp_path)


def test_close_twice(tmp_path: Path) -> None:
    """Closing is idempotent; a closed model says so."""
    write_folder(tmp_path, random_weights())
    model = LLM(tmp_path, threads=1)
    model.close()
    model.close()
    with pytest.raises(EngineError, match="closed"):
        model.generate([5], GREEDY)
