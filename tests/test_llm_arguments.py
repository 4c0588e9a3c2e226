"""Arguments of the public methods of `LLM`: taken as the HTTP door takes them, or refused alike."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestling import LLM, SamplingParams
from nestling.chat.template import AttachedFile, ChatMessage
from nestling.errors import EngineError, InvalidRequestError, ModelNotFoundError, SettingsError
from tests.chat.pdfs import pdf
from tests.weights.tiny_files import random_weights, write_folder

HI = [{"role": "user", "content": "Hi"}]
SHORT = SamplingParams(temperature=0, max_tokens=6)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("nestling-nano") as model:
        yield model


Call = Callable[[LLM], Any]


def use(method: str, *arguments: Any, **more: Any) -> Call:
    return lambda llm: getattr(llm, method)(*arguments, **more)


def params(**fields: Any) -> Call:
    return use("chat", HI, SamplingParams(**fields))


def generate(prompt: Any, **more: Any) -> Call:
    return use("generate", prompt, SHORT, **more)


def chat(messages: Any, **more: Any) -> Call:
    return use("chat", messages, SHORT, **more)


REFUSED: dict[str, tuple[Call, str | None, str]] = {
    # name: what is called, the error's param, a part of its message
    "prompt: None": (generate(None), "prompt", "Missing required parameter: 'prompt'"),
    "prompt: bytes": (generate(b"hi"), "prompt", "Invalid type for 'prompt': expected a string"),
    "prompt: number": (generate(5), "prompt", "but got an integer instead"),
    "prompt: no ids": (generate([]), "prompt", "minimum length 1, but got an empty array"),
    "prompt: no ids in a list": (generate([[]]), "prompt[0]", "minimum length 1, but got an empty"),
    "prompt: negative": (generate([1, -1]), "prompt[1]", "Expected a value >= 0, but got -1"),
    "prompt: huge": (generate([2**80]), "prompt[0]", "above maximum value"),
    "prompt: no token": (generate([10**6]), "prompt[0]", "outside the vocabulary"),
    "prompt: fraction": (generate([1.5]), "prompt[0]", "expected an integer, but got a decimal"),
    "prompt: flag": (generate([True]), "prompt[0]", "expected an integer, but got a boolean"),
    "prompt: nan": (generate([float("nan")]), "prompt[0]", "a number that is not finite"),
    "prompt: floats of numpy": (generate(np.ones(3)), "prompt", "a value of type ndarray"),
    "prompt: flags of numpy": (generate(np.ones(3, bool)), "prompt", "a value of type ndarray"),
    "prompt: generator": (generate(i for i in (1, 2)), "prompt", "a value of type generator"),
    "prompt: mixed": (generate(["a", 5]), "prompt[1]", "expected a string or an array of token"),
    "prompt: too long": (generate([5] * 10**5), "prompt", "Please shorten the prompt"),
    "prompt: no Unicode": (generate("\ud800"), "prompt", "prompt: "),
    "ignore_eos": (generate("a", ignore_eos=1), "ignore_eos", "expected a boolean"),
    "stop: empty": (chat(HI, stop=("",)), "stop[0]", "empty string"),
    "stop: empty text": (chat(HI, stop=""), "stop", "empty string"),
    "stop: number": (chat(HI, stop=5), "stop", "expected a string or an array of strings"),
    "stop: bytes": (chat(HI, stop=(b"a",)), "stop[0]", "expected a string, but got a value of"),
    "stop: many": (chat(HI, stop=["a"] * 5), "stop", "maximum length 4"),
    "stop: long": (chat(HI, stop="a" * 1025), "stop", "maximum length 1024"),
    "messages: None": (chat(None), "messages", "Missing required parameter: 'messages'"),
    "messages: text": (chat("hi"), "messages", "expected an array, but got a string"),
    "messages: none": (chat([]), "messages", "minimum length 1"),
    "messages: one": (chat(HI[0]), "messages", "expected an array, but got an object"),
    "messages: texts": (chat(["hi"]), "messages[0]", "expected an object, but got a string"),
    "messages: no role": (chat([{"content": "a"}]), "messages[0].role", "Missing required"),
    "messages: role": (
        chat([{"role": "robot", "content": "a"}]),
        "messages[0].role",
        "Supported values are: 'system', 'developer', 'user', 'assistant'",
    ),
    "messages: tool": (
        chat([{"role": "tool", "content": "a"}]),
        "messages[0].role",
        "there are no tools",
    ),
    "messages: wrong message": (
        chat([ChatMessage("robot", "a")]),  # type: ignore[arg-type]
        "messages[0].role",
        "Invalid value for 'messages[0].role': 'robot'",
    ),
    "messages: message with a file": (
        chat([ChatMessage("user", "a", (AttachedFile(0, None, b"", ""),))]),
        "messages[0]",
        "a value of type ChatMessage",
    ),
    "messages: no content": (chat([{"role": "user"}]), "messages[0].content", "Missing required"),
    "messages: number": (
        chat([{"role": "user", "content": 5}]),
        "messages[0].content",
        "expected a string or an array of parts",
    ),
    "messages: image": (
        chat([{"role": "user", "content": [{"type": "image_url"}]}]),
        "messages[0].content[0]",
        "not supported",
    ),
    "stream": (use("stream_chat", "hi"), "messages", "expected an array"),
    "stream: stop": (use("stream_chat", HI, stop=("",)), "stop[0]", "empty string"),
    "params: other": (
        use("chat", HI, {"seed": 1}),
        "sampling_params",
        "expected SamplingParams, but got an object",
    ),
    "temperature: text": (params(temperature="1"), "temperature", "expected a decimal, but got a"),
    "temperature: flag": (params(temperature=True), "temperature", "but got a boolean"),
    "temperature: nan": (params(temperature=float("nan")), "temperature", "that is not finite"),
    "temperature: high": (params(temperature=2.5), "temperature", "Expected a value <= 2"),
    "top_p": (params(top_p=0), "top_p", "Expected a value >= 0.01"),
    "top_k": (params(top_k=-2), "top_k", "Expected a value >= -1"),
    "max_tokens: zero": (params(max_tokens=0), "max_tokens", "Expected a value >= 1, but got 0"),
    "max_tokens: huge": (params(max_tokens=2**40), "max_tokens", "above maximum value"),
    "seed": (params(seed=0), "seed", "Expected a value >= 1"),
    "seed: fraction": (params(seed=1.5), "seed", "expected an integer"),
    "logprobs": (params(logprobs=21), "logprobs", "Expected a value <= 20"),
    "logit_bias: value": (params(logit_bias={5: 101}), "logit_bias.5", "Expected a value <= 100"),
    "logit_bias: key": (params(logit_bias={-1: 1}), "logit_bias", "'-1' is not a token id"),
    "logit_bias: no token": (params(logit_bias={10**6: 1}), "logit_bias", "outside the vocabul"),
    "logit_bias: other key": (params(logit_bias={(1,): 1}), "logit_bias", "token ids or texts"),
    "logit_bias: list": (params(logit_bias=[5]), "logit_bias", "expected an object"),
    "stop_token_ids": (params(stop_token_ids=(-1,)), "stop_token_ids[0]", ">= 0, but got -1"),
    "stop_token_ids: no token": (params(stop_token_ids=(10**6,)), "stop_token_ids[0]", "outside"),
    "tokenize": (use("tokenize", b"a"), "text", "expected a string"),
    "tokenize: None": (use("tokenize", None), "text", "but got null"),
    "detokenize": (use("detokenize", [-1]), "token_ids[0]", "but got -1"),
    "detokenize: no token": (use("detokenize", [10**6]), "token_ids[0]", "outside"),
    "detokenize: one": (use("detokenize", 5), "token_ids", "expected an array"),
    "detokenize: bytes": (use("detokenize", b"a"), "token_ids", "of type bytes"),
    "detokenize: None": (use("detokenize", None), "token_ids", "but got null"),
    "logits: text": (use("logits", "a"), "token_ids", "but got a string"),
    "logits: fraction": (use("logits", [0.5]), "token_ids[0]", "expected an integer"),
    "logits: no token": (use("logits", [10**6]), "token_ids[0]", "outside"),
    "logits: none": (use("logits", []), "token_ids", "expected 1 to"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(llm: LLM, name: str) -> None:
    call, param, message = REFUSED[name]
    with pytest.raises(InvalidRequestError) as caught:
        call(llm)
    assert caught.value.param == param
    assert message in caught.value.message


def test_one_text_is_one_stop_string(llm: LLM) -> None:
    ask = [{"role": "user", "content": "Count from 3 to 9."}]
    greedy = SamplingParams(temperature=0, max_tokens=30)
    assert llm.chat(ask, greedy, stop=", 7") == llm.chat(ask, greedy, stop=(", 7",))
    assert llm.chat(ask, greedy, stop=", 7").text == llm.chat(ask, greedy).text.partition(", 7")[0]
    assert llm.chat(ask, greedy, stop=None) == llm.chat(ask, greedy, stop=[])


def test_token_ids_come_in_any_sequence_of_integers(llm: LLM) -> None:
    ids = llm.tokenize("Hello there")
    same: list[Any] = [
        tuple(ids),
        np.array(ids),
        np.array(ids, np.uint16),
        [np.int64(i) for i in ids],
    ]
    for other in same:
        assert llm.generate(other, SHORT) == llm.generate(ids, SHORT)
        assert llm.detokenize(other) == "Hello there"
        assert np.array_equal(llm.logits(other), llm.logits(ids))
    first = llm.generate(ids, SHORT)
    assert llm.generate([ids, ids], SHORT) == [first, first]
    assert llm.generate(range(5, 8), SHORT).prompt_token_ids == [5, 6, 7]


def test_messages_are_those_of_the_http_door(llm: LLM) -> None:
    """Parts, messages that are made already, a PDF."""
    whole = llm.chat(HI, SHORT)
    assert llm.chat([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], SHORT) == whole
    assert llm.chat((ChatMessage("user", "Hi"),), SHORT) == whole
    data = base64.b64encode(pdf("Hello")).decode()
    parts = [{"type": "file", "file": {"file_data": data, "filename": "a.pdf"}}]
    written = [{"role": "user", "content": "File: a.pdf\n\nHello"}]
    assert llm.chat([{"role": "user", "content": parts}], SHORT) == llm.chat(written, SHORT)


def test_neutral_values_are_taken(llm: LLM) -> None:
    """None is absent, numbers of numpy are numbers, text names tokens to bias."""
    whole = llm.chat(HI, SHORT)
    same = SamplingParams(
        temperature=np.float32(0),  # type: ignore[arg-type]
        max_tokens=6.5,  # type: ignore[arg-type]
        top_k=-1,
        top_p=None,  # type: ignore[arg-type]
        stop_token_ids=[],  # type: ignore[arg-type]
    )
    assert llm.chat(HI, same) == whole
    banned = whole.token_ids[0]
    for key in (banned, str(banned), np.int64(banned)):
        params = SamplingParams(temperature=0, max_tokens=6, logit_bias={key: -100})  # type: ignore[dict-item]
        assert llm.chat(HI, params).token_ids[0] != banned


CONSTRUCTED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "model": ({"model": ""}, InvalidRequestError, "'model': empty string"),
    "model: None": ({"model": None}, InvalidRequestError, "'model': expected a string or a path"),
    "model: unknown": ({"model": "no-such-model"}, ModelNotFoundError, "no-such-model"),
    "engine": ({"engine": "cuda"}, SettingsError, "engine: expected one of native, reference"),
    "dtype": ({"dtype": "int3"}, SettingsError, "dtype: expected one of auto"),
    "dtype: number": ({"dtype": 8}, SettingsError, "dtype: expected one of auto"),
    "threads": ({"threads": 0}, InvalidRequestError, "'threads': integer below minimum"),
    "threads: text": ({"threads": "2"}, InvalidRequestError, "'threads': expected an integer"),
    "threads: flag": ({"threads": True}, InvalidRequestError, "but got a boolean"),
    "threads: many": ({"threads": 10**6}, InvalidRequestError, "'threads': integer above"),
    "max_model_len": ({"max_model_len": 1}, InvalidRequestError, "Expected a value >= 2"),
    "max_model_len: text": ({"max_model_len": "9"}, InvalidRequestError, "expected an integer"),
    "prefix_caching": ({"prefix_caching": 1}, InvalidRequestError, "expected a boolean"),
    "packed_dir": ({"packed_dir": 5}, InvalidRequestError, "expected a string or a path"),
    "switches_off": ({"switches_off": "fused_passes"}, InvalidRequestError, "expected an array"),
    "switches_off: unknown": ({"switches_off": ["warp"]}, SettingsError, "warp"),
}


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_construction(name: str) -> None:
    arguments, error, message = CONSTRUCTED[name]
    with pytest.raises(error, match=re.escape(message)):
        LLM(**arguments)


def test_without_a_tokenizer_ids_are_checked_alike(tmp_path: Path) -> None:
    write_folder(tmp_path, random_weights())
    with LLM(tmp_path, threads=1) as bare:
        with pytest.raises(InvalidRequestError, match="outside the vocabulary"):
            bare.generate([10**6])
        with pytest.raises(InvalidRequestError, match="no tokenizer"):
            bare.generate([5], stop="a")
        biased = SamplingParams(temperature=0, max_tokens=1, logit_bias={7: 100})
        assert bare.generate([5], biased, ignore_eos=True).token_ids == [7]


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    """Also to streams that it was closed under; closing those is harmless."""
    model = LLM("nestling-nano")
    stream = model.stream_chat(HI, SamplingParams(max_tokens=200))
    next(stream)
    model.close()
    calls: list[Callable[[], Any]] = [
        lambda: model.generate("a"),
        lambda: model.chat(HI),
        lambda: model.stream_chat(HI),
        lambda: model.logits([5]),
        model.stats,
        lambda: next(stream),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="this LLM is closed"):
            call()
    stream.close()
    model.close()
