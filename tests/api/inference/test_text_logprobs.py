"""`top_logprobs` of text completions: keyed by text, the token that was taken among them."""

import pytest

from nestling.api.inference.completions import TextOffsets, text_logprobs
from nestling.chat.request import AlternativeToken, TokenLogprob


def token(text: str, logprob: float) -> AlternativeToken:
    return AlternativeToken(text, text.encode(), logprob)


CASES = [
    ("none asked for", token("a", -3), (), {"a": -3.0}),
    ("among the best", token("a", -1), (token("a", -1), token("b", -2)), {"a": -1.0, "b": -2.0}),
    (
        "beside the best",
        token("c", -9),
        (token("a", -1), token("b", -2)),
        {"a": -1, "b": -2, "c": -9},
    ),
    ("of equal texts the best", token("a", -1), (token("a", -1), token("a", -7)), {"a": -1}),
    (
        "of equal texts not its own",
        token("a", -9),
        (token("a", -1), token("b", -2)),
        {"a": -1, "b": -2},
    ),
    ("impossible", token("a", float("-inf")), (token("b", 0),), {"b": 0, "a": -9999.0}),
]


@pytest.mark.parametrize(("name", "chosen", "top", "expected"), CASES, ids=[c[0] for c in CASES])
def test_top_logprobs(
    name: str,
    chosen: AlternativeToken,
    top: tuple[AlternativeToken, ...],
    expected: dict[str, float],
) -> None:
    body = text_logprobs([TokenLogprob(chosen, top)], TextOffsets())
    assert body.top_logprobs == [expected]
    assert list(body.top_logprobs[0]) == list(expected)
