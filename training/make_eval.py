"""Writes `eval/skills.jsonl`: sixty held-out prompts a skill, a function of the seed alone."""

import json
import random
from pathlib import Path

from training.data import EVAL_MAKERS, held_out

SKILLS = [*EVAL_MAKERS, "recall", "system"]


def rows(seed: int = 7, count: int = 60) -> list[str]:
    """Return the lines of the file."""
    lines = []
    for skill in SKILLS:
        rng = random.Random(f"{seed}/{skill}")
        seen: set[str] = set()
        while len(seen) < count:
            talk = held_out(rng, skill)
            messages = talk.messages()
            key = json.dumps(messages)
            if key in seen:
                continue
            row = {
                "id": f"{skill}-{len(seen) + 1:02d}",
                "skill": skill,
                "messages": messages,
                "check": talk.turns[-1].check,
            }
            seen.add(key)
            lines.append(json.dumps(row, ensure_ascii=False))
    return lines


if __name__ == "__main__":
    target = Path(__file__).parent / "eval" / "skills.jsonl"
    target.write_text("\n".join(rows()) + "\n", encoding="utf-8")
