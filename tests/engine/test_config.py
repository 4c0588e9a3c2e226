"""Bad engine settings stop the start and name key, expectation and value."""

import pytest

from nestling.engine.config import EngineConfig
from nestling.errors import SettingsError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", "int4"),
        ("num_threads", -1),
        ("num_threads", 257),
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", 15),
        ("max_waiting", -1),
        ("max_model_len", 1),
        ("num_blocks", 0),
        ("num_sliding_blocks", 0),
        ("engine", "fast"),
        ("kv_dtype", "int8"),
        ("max_step_s", 0),
        ("max_step_s", float("nan")),
        ("block_size", 0),
        ("kv_cache_bytes", 0),
    ],
)
def test_bad_values_are_named(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"{key}: expected .*got '?{value}"):
        EngineConfig(model="/m", **{key: value})  # type: ignore[arg-type]


def test_unknown_switches_are_named() -> None:
    with pytest.raises(SettingsError, match=r"switches_off: known switches: .*; got 'warp'"):
        EngineConfig(model="/m", switches_off=("warp",))


@pytest.mark.parametrize(("key", "value"), [("dtype", "bfloat16"), ("num_threads", 2)])
def test_the_reference_takes_nothing_that_it_would_ignore(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"{key}: expected .*engine reference.*got '?{value}"):
        EngineConfig(model="/m", engine="reference", **{key: value})  # type: ignore[arg-type]
    EngineConfig(model="/m", engine="native", **{key: value})  # type: ignore[arg-type]


def test_the_defaults_stand() -> None:
    assert EngineConfig(model="/m").block_size == 16


def test_the_reference_has_no_switches() -> None:
    with pytest.raises(SettingsError, match="switches_off: expected none with engine reference"):
        EngineConfig(model="m", engine="reference", switches_off=("prefill_skip",))
