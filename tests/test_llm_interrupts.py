"""Ctrl-C while `LLM` works: the call ends, its requests are aborted, and the model goes on.

The signal goes to a process of its own, whose main thread waits for the answer.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading, time
from nestling import LLM, SamplingParams

HI = [{"role": "user", "content": "Hi"}]
GREEDY = SamplingParams(temperature=0, max_tokens=5)
# The end token is banned, so that only the interrupt ends the answer.
llm = LLM("nestling-nano")
ENDLESS = SamplingParams(max_tokens=2**31 - 1, logit_bias={i: -100 for i in llm._end_token_ids})
first = llm.chat(HI, GREEDY)

def interrupt():
    begin = llm.stats().num_generated_tokens
    while llm.stats().num_generated_tokens < begin + 8:
        pass
    os.kill(os.getpid(), signal.SIGINT)

def use_generate():
    llm.generate("Hi", ENDLESS, ignore_eos=True)

def use_many():
    llm.generate(["Hi"] * 4, ENDLESS, ignore_eos=True)

def use_chat():
    llm.chat(HI, ENDLESS)

def use_stream():
    for delta in llm.stream_chat(HI, ENDLESS):
        pass

def use_with():
    with llm.stream_chat(HI, ENDLESS) as stream:
        for delta in stream:
            pass

for number in range(3):
    threading.Thread(target=interrupt).start()
    try:
        globals()[sys.argv[1]]()
    except KeyboardInterrupt:
        pass
    else:
        sys.exit("the answer ended before the interrupt")
    begin = llm.stats()
    while llm.stats().num_running:
        pass
    num_later = llm.stats().num_generated_tokens - begin.num_generated_tokens
    assert num_later <= 8, num_later
    stats = llm.stats()
    assert stats.num_waiting == 0, stats
    assert stats.num_free_blocks == stats.num_blocks, stats
    assert llm.chat(HI, GREEDY) == first
llm.close()
print("went on")
"""


@pytest.mark.parametrize("use", ["use_generate", "use_many", "use_chat", "use_stream", "use_with"])
def test_an_interrupt_cancels_and_the_model_goes_on(use: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, use],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_an_interrupt_ends_logits() -> None:
    """After the present step; the lock that steps share is free again."""
    program = """
import os, signal, threading, time
from nestling import LLM
llm = LLM("nestling-nano", engine="reference")
ids = [5] * 400
def interrupt():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    while True:
        llm.logits(ids)
except KeyboardInterrupt:
    pass
assert llm.logits([5, 6]).shape[0] == 2
llm.close()
print("went on")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
