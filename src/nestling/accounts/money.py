"""Counts money in whole nano-dollars, so that no sum is ever rounded.

The hosted API's credits are 1/2,000,000 of a dollar, which is too coarse for one token.
"""

from dataclasses import dataclass

NANO_USD = 10**9
NANO_USD_PER_CREDIT = 500


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a token in nano-USD."""

    prompt: int
    completion: int

    @classmethod
    def per_million(cls, prompt_usd: float, completion_usd: float) -> "Prices":
        """Return prices given in USD for a million tokens, with at most three decimals."""
        return cls(round(prompt_usd * 1000), round(completion_usd * 1000))

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return the price of so many tokens in nano-USD."""
        return self.prompt * prompt_tokens + self.completion * completion_tokens


def usd(nano_usd: int) -> float:
    """Return an amount in USD."""
    return nano_usd / NANO_USD


def credits_of(nano_usd: int) -> int:
    """Return an amount in whole credits, rounded half up."""
    return (nano_usd + NANO_USD_PER_CREDIT // 2) // NANO_USD_PER_CREDIT
