"""`nestling models`: which models this machine has, and which one `serve` would answer with."""

from typing import Any

from nestling.cli.options import AsJson, DataDir, command_line
from nestling.cli.output import print_json, print_table, print_text
from nestling.errors import ModelFileError
from nestling.plain_text import escape_line
from nestling.settings import load_settings
from nestling.weights.catalog import ModelEntry, list_models
from nestling.weights.checkpoint import load_checkpoint

app = command_line()


@app.command()
def models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the models of this machine.

    `serve` and `chat` use the first one unless another is named.
    """
    folder = load_settings({"data_dir": data_dir}).data_dir
    rows = [_describe(entry) for entry in list_models(folder)]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("model", "parameters", "layers", "weights", "path"),
        [
            (
                row["id"],
                row.get("parameters", "-"),
                row.get("layers", "-"),
                row.get("quantization", row.get("error", "-")),
                row["path"],
            )
            for row in rows
        ],
    )
    place = escape_line(str(folder / "models"))
    print_text(f"\nTo add a model, put a Gemma 3n folder or .gguf file into {place}")


def _describe(entry: ModelEntry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": entry.model_id,
        "path": str(entry.path),
        "is_embedded": entry.is_embedded,
    }
    try:
        checkpoint = load_checkpoint(entry.path)
    except ModelFileError as error:
        return row | {"error": error.message}
    sizes = (checkpoint.tensors.shape(name) for name in checkpoint.tensors.names())
    total = 0
    for shape in sizes:
        count = 1
        for dimension in shape:
            count *= dimension
        total += count
    return row | {
        "parameters": total,
        "layers": checkpoint.config.num_hidden_layers,
        "quantization": checkpoint.quantization,
        "context": checkpoint.config.max_position_embeddings,
    }
