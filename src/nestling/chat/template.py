"""A conversation as the prompt that Gemma was trained on. Pure; knows no HTTP and no JSON.

    <bos><start_of_turn>user\\n...<end_of_turn>\\n<start_of_turn>model\\n...<end_of_turn>\\n...

Only this module puts control tokens into a prompt, as ids; what people write is text to it. Where
the published template raises, docs/model.md ("Tokenizer and chat format") says what we do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nestling.chat.tokenizer import Tokenizer
from nestling.errors import InvalidRequestError

Role = Literal["system", "developer", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
_Speaker = Literal["user", "model"]
_BREAK = "\n\n"


@dataclass(frozen=True)
class AttachedFile:
    """A PDF that stands within a message; `chat/files.py` puts its text in its place."""

    at: int
    """Characters of the message's text before it."""
    filename: str | None
    data: bytes
    param: str
    """Where the request has it, for messages about it."""


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation, its parts already joined."""

    role: Role
    text: str
    files: tuple[AttachedFile, ...] = ()
    """In the order of their places; none are left when the prompt is rendered."""


@dataclass(frozen=True)
class _Turn:
    speaker: _Speaker
    text: str


def render_prompt(messages: Sequence[ChatMessage], tokenizer: Tokenizer) -> list[int]:
    """The prompt's ids, bos first, ending where the model's answer begins.

    Raises InvalidRequestError (param "messages") for no messages or a text that is not Unicode.
    """
    if not messages:
        raise InvalidRequestError("messages: expected at least one", param="messages")
    start, end = tokenizer.start_of_turn_id, tokenizer.end_of_turn_id
    newline = tokenizer.encode("\n")
    ids = [tokenizer.bos_token_id]
    for turn in _turns(messages):
        try:
            body = tokenizer.encode(f"{turn.speaker}\n{turn.text}")
        except InvalidRequestError as error:
            raise InvalidRequestError(f"messages: {error.message}", param="messages") from error
        ids += [start, *body, end, *newline]
    return [*ids, start, *tokenizer.encode("model\n")]


def _turns(messages: Sequence[ChatMessage]) -> list[_Turn]:
    """Turns that alternate, the user's first."""
    turns: list[_Turn] = []
    instructions = ""  # system and developer text that waits for the next user turn
    for message in messages:
        if message.role in ("system", "developer"):
            # HF puts "\n\n" even for a blank system text; we take blank as none.
            instructions += message.text + _BREAK if message.text.strip() else ""
        elif message.role == "user":
            _append(turns, _Turn("user", instructions + message.text.strip()))
            instructions = ""
        else:
            if not turns:
                _append(turns, _Turn("user", instructions.strip()))
                instructions = ""
            _append(turns, _Turn("model", message.text.strip()))
    if instructions or not turns:
        _append(turns, _Turn("user", instructions.strip()))
    return turns


def _append(turns: list[_Turn], turn: _Turn) -> None:
    """Add a turn, to the last one if that is of the same speaker."""
    if turns and turns[-1].speaker == turn.speaker:
        texts = (turns.pop().text, turn.text)
        turn = _Turn(turn.speaker, _BREAK.join(text for text in texts if text))
    turns.append(turn)
