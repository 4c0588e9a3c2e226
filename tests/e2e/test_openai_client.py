"""The `openai` client against the real server and model: create, stream, helpers, errors, abort."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.conftest import Server
from tests.e2e.replies import endless, replies_ended, until_running

MODEL = "google/gemma-3n-e4b-it"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from 3 to 7."}]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """A client with the server's key."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
        yield client


def test_create(client: openai.OpenAI) -> None:
    """A plain completion carries text, reason and usage, and no request-independent zeros."""
    answer = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert "3" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert answer.id.startswith("gen-")


def test_stream_equals_create(client: openai.OpenAI) -> None:
    """The pieces of a stream add up to the plain answer; usage comes last, and only when asked."""
    plain = client.chat.completions.create(model=MODEL, messages=ASK, seed=5, temperature=0.9)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=ASK,
            seed=5,
            temperature=0.9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices].count(
        "assistant"
    ) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stream_helper(client: openai.OpenAI) -> None:
    """The `.stream()` helper, which concatenates every repeated string, rebuilds the message."""
    with client.chat.completions.stream(model=MODEL, messages=ASK, temperature=0) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == "stop"


def test_max_tokens_and_stop(client: openai.OpenAI) -> None:
    """A token limit ends with "length"; a stop string ends with "stop" and is not returned."""
    cut = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=2, temperature=0)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 2
    stopped = client.chat.completions.create(model=MODEL, messages=ASK, stop=["5"], temperature=0)
    assert stopped.choices[0].finish_reason == "stop"
    assert "4" in (stopped.choices[0].message.content or "")
    assert "5" not in (stopped.choices[0].message.content or "")


def test_logit_bias_bans_a_token(client: openai.OpenAI) -> None:
    """A bias of -100 on a text key keeps its tokens out of the answer."""
    banned = client.chat.completions.create(
        model=MODEL, messages=ASK, temperature=0, logit_bias={",": -100}
    )
    free = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0)
    assert "," in (free.choices[0].message.content or "")
    assert "," not in (banned.choices[0].message.content or "")


def test_logprobs(client: openai.OpenAI) -> None:
    """Each visible token carries its log-probability and the asked number of alternatives."""
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, temperature=0, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content or []
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)
        assert entry.logprob <= 0


def test_bad_key(server: Server) -> None:
    """A wrong key raises the client's AuthenticationError with the code."""
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model=MODEL, messages=ASK)
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 200), ("top_p", 0), ("max_tokens", 0), ("seed", 0), ("stop", [""])],
)
def test_bad_parameter(client: openai.OpenAI, field: str, value: object) -> None:
    """A value out of bounds raises BadRequestError that names the field."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASK, extra_body={field: value})
    assert (caught.value.param or "").startswith(field)
    assert field in str(caught.value)


ERRORS = [
    ({"messages": [{"role": "user", "content": "x " * 99_999}]}, "context_length_exceeded"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "unsupported_parameter"),
    ({"model": "gpt-4"}, "model_not_found"),
    ({"response_format": {"type": "json_object"}}, "unsupported_parameter"),
    ({"stream": True, "top_p": 7}, "decimal_above_max_value"),
]


@pytest.mark.parametrize(("fields", "code"), ERRORS, ids=[code for _, code in ERRORS])
def test_errors_are_of_the_right_class(
    client: openai.OpenAI, fields: dict[str, Any], code: str
) -> None:
    """Streamed or not, a refusal is raised by the call itself, with what the client exposes."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": ASK, **fields})
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_leaving_a_stream_ends_the_generation(server: Server, client: openai.OpenAI) -> None:
    """Closing the response after some chunks aborts what still runs."""
    before = replies_ended(server, "aborted")
    with client.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, **endless()
    ) as stream:
        for _, _ in zip(range(5), stream, strict=False):
            pass
    assert replies_ended(server, "aborted", at_least=before + 1) == before + 1


def test_leaving_a_helper_ends_the_generation(server: Server, client: openai.OpenAI) -> None:
    """So does leaving the `.stream()` helper's block."""
    before = replies_ended(server, "aborted")
    with client.chat.completions.stream(model=MODEL, messages=ASK, **endless()) as stream:
        next(iter(stream))
    assert replies_ended(server, "aborted", at_least=before + 1) == before + 1


async def test_cancelling_a_whole_request_ends_the_generation(server: Server) -> None:
    """A task that is cancelled while it waits closes its connection: the server notices."""
    before = replies_ended(server, "aborted")
    base_url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=server.key, max_retries=0) as client:
        asking = client.chat.completions.create(model=MODEL, messages=ASK, **endless())
        task = asyncio.create_task(asking)
        await asyncio.to_thread(until_running, server)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    ended = await asyncio.to_thread(replies_ended, server, "aborted", before + 1)
    assert ended == before + 1


def test_models(client: openai.OpenAI) -> None:
    """The model list names what really answers."""
    assert "nestling-nano" in [model.id for model in client.models.list()]
