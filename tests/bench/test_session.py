"""Phases of a hand-stepped engine hold the steps and tokens that they say they time."""

from pathlib import Path

import pytest

from nestling.bench.plan import longest_context
from nestling.bench.session import EngineSession
from nestling.engine.config import EngineConfig
from nestling.engine.step_profiler import PARTS
from nestling.errors import EngineError, ModelFileError
from tests.weights.tiny_files import random_weights, write_folder


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    """A tiny random model: 128 tokens of context."""
    write_folder(tmp_path, random_weights())
    return EngineConfig(
        model=str(tmp_path), num_threads=1, max_num_seqs=16, max_num_batched_tokens=16
    )


def test_a_prefill_is_its_chunks(config: EngineConfig) -> None:
    """40 tokens in steps of at most 16."""
    session = EngineSession(config)
    phase = session.first_token(session.random_prompt(40))
    assert (phase.times.num_steps, phase.times.num_tokens) == (3, 41)
    assert session.weight_bytes_per_token < phase.times.weight_bytes_read
    assert phase.times.weight_bytes_read <= 3 * session.weight_bytes_per_token
    seconds = phase.times.part_seconds
    assert set(seconds) >= {*PARTS, "model.feed_forward"}
    assert 0 < sum(seconds[part] for part in PARTS) <= phase.seconds
    assert 0 < seconds["model.feed_forward"] < seconds["model"]


@pytest.mark.parametrize("num_seqs", [1, 5, 16])
def test_decoding_has_no_prefill_in_it_and_leaves_nothing(
    config: EngineConfig, num_seqs: int
) -> None:
    """Exactly the steps asked for, one token for each sequence in each; all blocks come back."""
    session = EngineSession(config)
    num_blocks = session.snapshot().num_free_blocks
    before = session.snapshot().num_generated_tokens
    decoded = session.decode(num_seqs, context=9, num_steps=7)
    assert decoded.first_token_s > 0
    assert (decoded.phase.times.num_steps, decoded.phase.times.num_tokens) == (7, 7 * num_seqs)
    after = session.snapshot()
    assert after.num_generated_tokens - before >= num_seqs * 8
    assert after.num_free_blocks == num_blocks
    assert (after.num_running, after.num_waiting) == (0, 0)


def test_a_batch_beyond_the_cache_is_no_figure(config: EngineConfig) -> None:
    """Sequences that push each other out do not decode together."""
    small = EngineConfig(model=config.model, num_threads=1, num_blocks=9, block_size=16)
    with pytest.raises(EngineError, match="do not fit"):
        EngineSession(small).decode(4, context=20, num_steps=60)


def test_a_context_that_ends_is_no_figure(config: EngineConfig) -> None:
    """The longest that goes through is what the plan allows."""
    session = EngineSession(config)
    longest = longest_context(128, 7)
    assert session.decode(1, longest, 7).phase.times.num_steps == 7
    with pytest.raises(EngineError, match="do not fit"):
        session.decode(1, longest + 1, 7)


def test_a_refused_request_is_told(config: EngineConfig) -> None:
    session = EngineSession(config)
    with pytest.raises(EngineError, match="tokens"):
        session.first_token(session.random_prompt(500))


def test_prompts_differ_but_for_the_prefix(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests, alike in all but their last token."""
    session = EngineSession(config)
    seen: list[list[int]] = []
    submit = session._submit

    def remembered(prompt: list[int], max_tokens: int) -> str:
        seen.append(prompt)
        return submit(prompt, max_tokens)

    monkeypatch.setattr(session, "_submit", remembered)
    hit = session.prefix_hit_first_token(64)
    assert (hit.times.num_cached_tokens, hit.times.num_tokens) == (64, 2)
    first, second = seen
    assert first[:-1] == second[:-1]
    assert len(first) == 65
    assert first[-1] != second[-1]
    assert session.random_prompt(64) != session.random_prompt(64)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        EngineSession(EngineConfig(model=str(tmp_path)))
