"""Gemma 3n on your own machine, behind the API that its users already call."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestling.engine.clients.messages import SamplingParams
    from nestling.llm import LLM

__all__ = ["LLM", "SamplingParams", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `LLM` and `SamplingParams` on first use, so that the command line starts quickly."""
    if name == "LLM":
        from nestling.llm import LLM

        return LLM
    if name == "SamplingParams":
        from nestling.engine.clients.messages import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'nestling' has no attribute {name!r}")
