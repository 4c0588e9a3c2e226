"""`nestling chat`: one answer to a prompt or a pipe, or a conversation in the terminal."""

import sys
from typing import Annotated

import typer

from nestling.cli.model import open_model
from nestling.cli.options import AsJson, DataDir, Engine, Model, Threads
from nestling.cli.output import print_json
from nestling.cli.repl import converse
from nestling.cli.session import SETTABLE, Session
from nestling.engine.clients.messages import SamplingParams
from nestling.errors import InvalidRequestError
from nestling.settings import load_settings
from nestling.weights.catalog import find_model

app = typer.Typer(add_completion=False)


@app.command()
def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask; without it a pipe or the terminal is read.")
    ] = None,
    system: Annotated[str, typer.Option("--system", "-s", help="Instructions for the model.")] = "",
    temperature: Annotated[str | None, typer.Option(help="0 to 2; 0 is greedy.")] = None,
    top_p: Annotated[str | None, typer.Option(help="0.01 to 1.")] = None,
    top_k: Annotated[str | None, typer.Option(help="Best tokens kept; 0 keeps all.")] = None,
    seed: Annotated[str | None, typer.Option(help="Repeats an answer exactly.")] = None,
    max_tokens: Annotated[str | None, typer.Option(help="Longest answer, in tokens.")] = None,
    model: Model = None,
    threads: Threads = None,
    engine: Engine = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask once, or talk: without a prompt on a terminal this starts a conversation."""
    settings = load_settings(
        {"data_dir": data_dir, "model": model, "threads": threads, "engine": engine}
    )
    entry = find_model(settings.model, settings.data_dir)
    is_terminal = sys.stdin.isatty()
    if prompt is None and not is_terminal:
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise InvalidRequestError("The prompt is empty. Expected some text.", param="prompt")
    with open_model(entry.path, settings) as llm:
        session = Session(llm, SamplingParams(), system)
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


def _answer(session: Session, prompt: str, model_id: str, as_json: bool) -> None:
    text = ""
    finish_reason = None
    for delta in session.ask(prompt):
        text += delta.text
        finish_reason = delta.finish_reason
        if not as_json:
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    if not as_json:
        sys.stdout.write("\n")
        return
    usage = {"prompt_tokens": session.num_prompt_tokens, "completion_tokens": session.num_tokens}
    print_json({"model": model_id, "text": text, "finish_reason": finish_reason, "usage": usage})
