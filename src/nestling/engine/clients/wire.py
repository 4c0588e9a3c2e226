"""Frames messages between the web process and the engine process: length-prefixed msgpack.

A frame is 4 bytes of length (big-endian) and that many bytes of msgpack; nothing is ever unpickled.
To the engine goes its `EngineConfig`, then one command a frame; back come lists of events, one list
a step. Decoding checks every type, so the far side sees the structs of `messages.py` or nothing.
"""

from collections.abc import Sequence

import msgspec

from nestling.engine.clients.messages import EngineCommand, EngineEvent, Submit
from nestling.engine.config import EngineConfig
from nestling.errors import InvalidRequestError

HEADER_BYTES = 4
MAX_FRAME_BYTES = 16 << 20
"""A prompt of 32,768 tokens with 262,144 biases takes under 5 MiB."""

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[EngineCommand] = msgspec.msgpack.Decoder(EngineCommand)
_submits = msgspec.msgpack.Decoder(Submit)
_events = msgspec.msgpack.Decoder(list[EngineEvent])
_configs = msgspec.msgpack.Decoder(EngineConfig)


class FrameError(Exception):
    """The other side sent what is no frame of ours; the connection is of no more use."""


def pack(message: EngineConfig | EngineCommand | Sequence[EngineEvent]) -> bytes:
    """One whole frame; raises `FrameError` if it would be too long."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes; at most {MAX_FRAME_BYTES} are sent")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def pack_submit(submit: Submit) -> bytes:
    """The frame of a submit that the engine will surely decode, else `InvalidRequestError`."""
    try:
        frame = pack(submit)
        _submits.decode(memoryview(frame)[HEADER_BYTES:])
    except (msgspec.MsgspecError, TypeError, OverflowError, FrameError) as error:
        raise InvalidRequestError(f"the request is not plain data of its types: {error}") from error
    return frame


def body_length(header: bytes) -> int:
    """Bytes that follow the header; raises `FrameError` beyond the bound."""
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes was announced; at most {MAX_FRAME_BYTES} fit")
    return length


def unpack_config(body: bytes) -> EngineConfig:
    """Raises `FrameError` if the body is none."""
    try:
        return _configs.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(f"not an engine configuration: {error}") from error


def unpack_command(body: bytes) -> EngineCommand:
    """Raises `FrameError` if the body is none."""
    try:
        return _commands.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(f"not an engine command: {error}") from error


def unpack_events(body: bytes) -> list[EngineEvent]:
    """Raises `FrameError` if the body is none."""
    try:
        return _events.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(f"not a list of engine events: {error}") from error
