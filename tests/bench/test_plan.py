"""What a benchmark may be asked for."""

import pytest

from nestling.bench.plan import BenchPlan, parse_batch, parse_count
from nestling.errors import SettingsError


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threads": 0}, "threads: expected 1 to 256, got 0"),
        ({"prompt": 0}, "prompt: expected 1 to 127, got 0"),
        ({"prompt": 128}, "prompt: expected 1 to 127, got 128"),
        ({"generate": 126}, "generate: expected 1 to 125, got 126"),
        ({"context": 95}, "context: expected 1 to 94, got 95"),
        ({"memory_context": 0}, "memory-context: expected at least 1, got 0"),
        ({"runs": 0}, "runs: expected 1 to 100, got 0"),
        ({"batch": (4, 65)}, "batch: expected 1 to 64, got 65"),
        ({"batch": (4, 4)}, "batch: expected distinct sizes, got '4,4'"),
        ({"batch": ()}, "batch: expected distinct sizes, got ''"),
        ({"switches_off": ("warp",)}, "off: known switches: .*; got 'warp'"),
    ],
    ids=str,
)
def test_bad_plans_are_named(changed: dict[str, object], message: str) -> None:
    plan = BenchPlan(**({"model": "/m", "threads": 1, "prompt": 100} | changed))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=message):
        plan.fitted(128)


def test_memory_context_and_prefix_are_cut_to_the_model() -> None:
    """Their defaults are those of the real model; all else stays."""
    plan = BenchPlan(model="/m", threads=2, prompt=100)
    fitted = plan.fitted(128)
    assert (fitted.memory_context, fitted.prefix) == (127, 126)
    assert plan.fitted(32768) == plan


@pytest.mark.parametrize("text", ["", "x", "1,", "1.5", "1 4"])
def test_options_that_are_no_numbers(text: str) -> None:
    with pytest.raises(SettingsError, match="batch: expected a whole number, got"):
        parse_batch(text)
    if "," not in text:
        with pytest.raises(SettingsError, match="runs: expected a whole number, got"):
            parse_count("runs", text)


def test_options_that_are() -> None:
    assert parse_batch("1,4, 16") == (1, 4, 16)
    assert parse_count("runs", "3") == 3
