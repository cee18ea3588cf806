"""What several trainings at once make together: all their updates over the time from the first start to the last end.

    python benchmarks/together.py --experiment several several_1.jsonl several_4.jsonl --output together.json

Each file is what one `train-dense --jobs N --json` printed; the times are the registry's ($MLFLOW_TRACKING_URI). The
speeds of the trainings do not add up: they leave out the evaluations, and the seconds when only some were running.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rewindctl.registry import Registry
from rewindctl.registry.records import UPDATES


def row_of(file: Path, registry: Registry) -> dict[str, Any]:
    answers = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    runs = [registry.get(answer["run_id"]) for answer in answers if answer.get("run_id")]
    finished = [run for run in runs if run.status == "FINISHED"]
    if not finished:
        return {"file": file.name, "failed": "no run finished"}
    seconds = (max(run.ended for run in finished) - min(run.started for run in finished)) / 1000
    updates = sum(int(run.params["iterations"]) for run in finished)
    return {
        "file": file.name,
        "trials": len(finished),
        "seconds": round(seconds, 1),
        "iterations_per_second": round(updates / max(seconds, 1e-3), 1),
        "of_each_alone": [round(run.metrics["iterations_per_second"], 1) for run in finished],
        "updates": sorted({run.tags.get(UPDATES, "unknown") for run in finished}),
        "failed": f"{len(answers) - len(finished)} of {len(answers)}" if len(finished) < len(answers) else "",
    }


def line_of(row: dict[str, Any]) -> str:
    if "trials" not in row:
        return f"{row['file']}: FAILED: {row['failed']}"
    line = f"{row['trials']:>2} at once  {row['iterations_per_second']:>8} it/s in sum, {row['seconds']} s"
    line += f", {' and '.join(row['updates'])}; each by itself {row['of_each_alone']}"
    return line + (f"  FAILED: {row['failed']}" if row["failed"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--experiment")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    registry = Registry(None, arguments.experiment)
    rows = [row_of(file, registry) for file in arguments.files]
    print("\n".join(map(line_of, rows)))
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")
    if failed := [row["file"] for row in rows if row["failed"]]:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
