"""Collect the project's own runs for the planner: results/ → src/lilliput/plan/evidence.json.

python bench/collect_evidence.py            (again after every finished study; a test compares the two)
"""

from __future__ import annotations

import json
from pathlib import Path

from lilliput.plan.evidence import SHIPPED, collect
from lilliput.store import write_atomic

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write the file and say what it holds."""
    runs = collect(ROOT / "results")
    lines = ",\n".join(json.dumps(run.to_dict()) for run in runs)
    file = ROOT / "src" / "lilliput" / "plan" / SHIPPED
    write_atomic(file, f'{{"runs": [\n{lines}\n]}}\n')
    print(f"{len(runs)} runs in {len({run.group for run in runs})} groups → {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
