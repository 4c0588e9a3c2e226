"""The whole recipe in one command: tokenizer, training, export, evaluation.

python -m training.run --folder build/nano            # by the clock, 60 minutes
python -m training.run --folder build/nano --steps N  # exactly N steps
"""

import argparse
from pathlib import Path

from training import tokenizer, train

HERE = Path(__file__).parent
ASSETS = HERE.parent / "src" / "nestling" / "assets" / "nano"


def main() -> None:
    """Run every stage; stages that are done are skipped or continued."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/nano"))
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    if not (args.folder / "tokenizer" / "tokenizer.json").exists():
        tokenizer.save(args.folder / "tokenizer", args.seed)
    train.run(
        train.Settings(
            args.folder, args.seed, args.steps, args.minutes, args.workers, not args.no_compile
        )
    )
    if args.train_only:
        return
    from training import evaluate, export

    export.export(args.folder, args.out)
    report = evaluate.run(
        args.out, [HERE / "eval" / "skills.jsonl", HERE / "eval" / "own_wording.jsonl"]
    )
    export.write_card(args.folder, args.out, args.seed, report)
    print(evaluate.table(report))


if __name__ == "__main__":
    main()
