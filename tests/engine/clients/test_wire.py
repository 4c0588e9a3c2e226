"""Frames: bounded, typed, and equal after the journey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nestling.engine.clients import wire
from nestling.engine.clients.messages import (
    Abort,
    EngineCommand,
    EngineEvent,
    EngineInfo,
    GetStats,
    LoadFailed,
    RequestFailed,
    SamplingParams,
    Shutdown,
    Stats,
    Submit,
    TokenLogprobs,
    TokenOutput,
)
from nestling.engine.config import EngineConfig
from nestling.errors import InvalidRequestError

COMMANDS: list[EngineCommand] = [
    Submit("a", [1, 2], SamplingParams(logit_bias={5: 1.5}, stop_token_ids=(1,), seed=9)),
    Abort("a"),
    GetStats(3),
    Shutdown(),
]
EVENTS: list[EngineEvent] = [
    EngineInfo(72, 128, 4, 24, 4),
    LoadFailed("bad_model_file", "x", "/x", "norm.weight"),
    TokenOutput("a", [1], "stop", [TokenLogprobs(1, -0.5, ((1, -0.5), (2, -1.5)))]),
    RequestFailed("a", "overloaded", "full", None, 2),
    replace(Stats(1, *range(2, 15)), part_seconds={"model": 0.25}),
]


def body(frame: bytes) -> bytes:
    assert wire.body_length(frame[: wire.HEADER_BYTES]) == len(frame) - wire.HEADER_BYTES
    return frame[wire.HEADER_BYTES :]


def test_every_message_arrives_as_it_was() -> None:
    for command in COMMANDS:
        assert wire.unpack_command(body(wire.pack(command))) == command
    assert wire.unpack_events(body(wire.pack(EVENTS))) == EVENTS
    config = EngineConfig(model="/m", num_blocks=7)
    assert wire.unpack_config(body(wire.pack(config))) == config


def test_frames_are_bounded_on_both_sides() -> None:
    with pytest.raises(wire.FrameError, match="at most"):
        wire.body_length(b"\xff\xff\xff\xff")
    with pytest.raises(wire.FrameError, match="at most"):
        wire.pack(Abort("x" * wire.MAX_FRAME_BYTES))
    with pytest.raises(InvalidRequestError, match="at most"):
        wire.pack_submit(Submit("x" * wire.MAX_FRAME_BYTES, [1], SamplingParams()))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_frame_error(data: bytes) -> None:
    for unpack in (wire.unpack_command, wire.unpack_events, wire.unpack_config):
        try:
            unpack(data)
        except wire.FrameError:
            continue


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(prompt=json_like, name=st.sampled_from(SamplingParams.__struct_fields__), value=json_like)
def test_a_submit_of_wrong_types_never_leaves(prompt: object, name: str, value: object) -> None:
    params = SamplingParams(**{name: value})  # type: ignore[arg-type]
    try:
        frame = wire.pack_submit(Submit("a", prompt, params))  # type: ignore[arg-type]
    except InvalidRequestError:
        return
    decoded = wire.unpack_command(body(frame))
    assert isinstance(decoded, Submit)
    assert isinstance(decoded.prompt_token_ids, list)
    assert all(type(token_id) is int for token_id in decoded.prompt_token_ids)
