"""`nestling chat`: one answer to a prompt or a pipe, or a conversation in the terminal."""

import sys
from typing import Annotated

import typer

from nestling.cli.model import open_model
from nestling.cli.options import AsJson, DataDir, Engine, Model, Threads, command_line
from nestling.cli.output import print_json, write_answer
from nestling.cli.repl import converse
from nestling.cli.session import SETTABLE, Session, checked_text
from nestling.engine.clients.messages import SamplingParams
from nestling.errors import InvalidRequestError
from nestling.plain_text import NotUtf8Error, decode_utf8
from nestling.settings import load_settings
from nestling.weights.catalog import find_model

app = command_line()


@app.command()
def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to ask. Without it, a pipe or the terminal is read."),
    ] = None,
    system: Annotated[
        str, typer.Option("--system", "-s", metavar="TEXT", help="Instructions for the model.")
    ] = "",
    temperature: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="0 to 2; 0 always takes the best token.")
    ] = None,
    top_p: Annotated[str | None, typer.Option(metavar="NUMBER", help="0.01 to 1.")] = None,
    top_k: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Keep only so many best tokens; 0: all.")
    ] = None,
    seed: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="The same seed gives the same answer.")
    ] = None,
    max_tokens: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Longest answer, in tokens.")
    ] = None,
    model: Model = None,
    threads: Threads = None,
    engine: Engine = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask once, or talk with the model.

    Without a prompt on a terminal a conversation starts. There /help lists what can be typed.
    """
    settings = load_settings(
        {"data_dir": data_dir, "model": model, "threads": threads, "engine": engine}
    )
    entry = find_model(settings.model, settings.data_dir)
    if prompt is None and not sys.stdin.isatty():
        prompt = _read_input()
    if prompt is None and as_json:
        raise InvalidRequestError("--json: expected a prompt; a conversation has no JSON form")
    if prompt is not None and not checked_text("the prompt", prompt).strip():
        raise InvalidRequestError("The prompt is empty. Expected some text.", param="prompt")
    with open_model(entry.path, settings) as llm:
        session = Session(llm, SamplingParams(), checked_text("--system", system))
        given = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed,
            "max_tokens": max_tokens,
        }
        for name in SETTABLE:
            value = given.get(name)
            if value is not None:
                session.set(name, value)
        if prompt is None:
            converse(session, entry.model_id)
        else:
            _answer(session, prompt, entry.model_id, as_json)


def _read_input() -> str:
    """Return all of standard input, with the line endings of this system."""
    try:
        text = decode_utf8(sys.stdin.buffer.read())
    except NotUtf8Error as error:
        raise InvalidRequestError(f"standard input cannot be read: {error}") from None
    return text.replace("\r\n", "\n")


def _answer(session: Session, prompt: str, model_id: str, as_json: bool) -> None:
    text = ""
    finish_reason = None
    for delta in session.ask(prompt):
        text += delta.text
        finish_reason = delta.finish_reason
        if not as_json:
            write_answer(delta.text)
    if not as_json:
        write_answer("\n")
        return
    usage = {"prompt_tokens": session.num_prompt_tokens, "completion_tokens": session.num_tokens}
    print_json({"model": model_id, "text": text, "finish_reason": finish_reason, "usage": usage})
