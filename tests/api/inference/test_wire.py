"""The real server spoken to by the real `openai` client and by the page's own example."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
import requests
from openai.types.chat import ChatCompletionMessageParam

from tests.api.conftest import KEY, MODEL, FakeChat

TEXT = "Hello there 👋"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


async def test_create(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    assert raw.status_code == 201
    reply = raw.parse()
    assert reply.choices[0].message.content == TEXT
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "nestling-nano"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (7, 10)
    assert raw.headers["x-inference-id"] == reply.id


async def test_create_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert [c.choices[0].delta.role for c in chunks if c.choices].count("assistant") == 1
    assert len({c.id for c in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


async def test_stream_helper(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=MESSAGES, n=2) as stream:
        events = [event async for event in stream]
        completion = await stream.get_final_completion()
    assert [choice.message.content for choice in completion.choices] == [TEXT, TEXT]
    assert completion.choices[1].message.role == "assistant"
    assert any(event.type == "content.done" for event in events)


async def test_logprobs(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, logprobs=True, top_logprobs=2
    )
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content
    assert content is not None
    assert "".join(item.token for item in content) == TEXT
    assert content[0].top_logprobs[1].logprob == -9999.0
    assert content[0].top_logprobs[1].bytes is None


async def test_bad_key(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="nope", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.code == "invalid_api_key"


async def test_bad_parameter(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=200)
    assert caught.value.param == "temperature"
    assert caught.value.code == "decimal_above_max_value"
    assert "Expected a value <= 2, but got 200 instead." in caught.value.message
    assert caught.value.request_id


async def test_error_after_the_first_byte(client: openai.AsyncOpenAI, chat: FakeChat) -> None:
    chat.error, chat.error_after = RuntimeError("secret inside 0x7f001234"), 2
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    seen = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
    assert seen == ["", "Hello", " there"]
    with pytest.raises(openai.APIError) as caught:
        await anext(stream)
    assert "secret" not in caught.value.message


async def test_page_example(url: str) -> None:
    response = await asyncio.to_thread(
        requests.post,
        f"{url}/v1/chat/completions",
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        json={"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]},
        timeout=10,
    )
    assert response.status_code == 201
    assert response.json()["choices"][0]["message"]["content"] == TEXT
