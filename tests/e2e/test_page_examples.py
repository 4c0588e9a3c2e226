"""Both examples of the hosted API's page run against a real server, base URL and key aside."""

import contextlib
import io
import json

import httpx
import requests

from tests.e2e.conftest import Server

PYTHON_EXAMPLE = """
import requests
import json

response = requests.post(
    "https://api.aimlapi.com/v1/chat/completions",
    headers={
        "Content-Type":"application/json",

        # Insert your AIML API Key instead of <YOUR_AIMLAPI_KEY>:
        "Authorization":"Bearer <YOUR_AIMLAPI_KEY>",
        "Content-Type":"application/json"
    },
    json={
        "model":"google/gemma-3n-e4b-it",
        "messages":[
            {
                "role":"user",

                # Insert your question for the model here, instead of Hello:
                "content":"Hello!"
            }
        ]

    }
)

data = response.json()
print(json.dumps(data, indent=2, ensure_ascii=False))
"""

HTTP_EXAMPLE_BODY = """{
  "model": "google/gemma-3n-e4b-it",
  "messages": [
    {
      "role": "user",
      "content": "text",
      "name": "text"
    }
  ],
  "max_completion_tokens": 512,
  "max_tokens": 512,
  "stream": false,
  "stream_options": {
    "include_usage": true
  },
  "temperature": 1,
  "top_p": 1,
  "seed": 1,
  "min_p": 1,
  "top_k": 1,
  "repetition_penalty": 1,
  "top_a": 1,
  "stop": "text",
  "logit_bias": {
    "ANY_ADDITIONAL_PROPERTY": 1
  }
}"""


def test_python_example(server: Server) -> None:
    """The page's Python example prints a completion with an answer and real usage."""
    code = PYTHON_EXAMPLE.replace("https://api.aimlapi.com", server.url).replace(
        "<YOUR_AIMLAPI_KEY>", server.key
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "page_example.py", "exec"), {})  # noqa: S102 - the page's own code
    data = json.loads(printed.getvalue())
    assert data["object"] == "chat.completion"
    assert data["model"] == "nestling-nano"
    choice = data["choices"][0]
    assert choice["finish_reason"] in ("stop", "length")
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip()
    usage = data["usage"]
    assert usage["prompt_tokens"] > 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_greeting_is_greeted(server: Server) -> None:
    """What the page's example says, without its randomness, gets a greeting back."""
    with server.client() as client:
        ask = {"model": "google/gemma-3n-e4b-it", "temperature": 0}
        ask["messages"] = [{"role": "user", "content": "Hello!"}]
        answer = client.post("/v1/chat/completions", json=ask).json()
    said = answer["choices"][0]["message"]["content"].lower()
    assert any(word in said for word in ("hello", "hi", "hey"))


def test_http_example(server: Server) -> None:
    """The page's HTTP example, header for header, answers 201 with a non-empty message."""
    response = httpx.post(
        f"{server.url}/v1/chat/completions",
        content=HTTP_EXAMPLE_BODY,
        headers={
            "Authorization": f"Bearer {server.key}",
            "Content-Type": "application/json",
            "Accept": "*/*",
        },
        timeout=60,
    )
    assert response.status_code == 201
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].strip()
    assert "text" not in choice["message"]["content"]


def test_wrong_key_is_refused(server: Server) -> None:
    """The page's example with a wrong key: 401, in both error shapes."""
    response = requests.post(
        f"{server.url}/v1/chat/completions",
        headers={"Authorization": "Bearer <YOUR_AIMLAPI_KEY>"},
        json={"model": "google/gemma-3n-e4b-it", "messages": [{"role": "user", "content": "Hi"}]},
        timeout=10,
    )
    assert response.status_code == 401
    body = response.json()
    assert body["error"]["code"] == "invalid_api_key"
    assert body["statusCode"] == 401
