"""The comparison as a whole: runs to cells to a table, and to files."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rewindctl.errors import RewindError, UsageError
from rewindctl.files import replacing
from rewindctl.registry import Registry
from rewindctl.report.cells import SETTINGS, summarise
from rewindctl.report.claims import verdicts
from rewindctl.report.claims_table import claims_table
from rewindctl.report.figures import figures, save_figure
from rewindctl.report.frame import tidy_frame
from rewindctl.report.tables import formats, method_name, tables

SUFFIXES = {"text": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "json": "json"}
NAMES_OF_BEST = {
    "accuracy %": "best accuracy %",
    "median": "median_of_best",
    "effect (points)": "effect on best (points)",
    "effect": "effect_on_best",
}
DEFAULT_OUTPUT = Path("plots")
PANEL_OF_CELL = ("model", "dataset", "iterations", *SETTINGS, "dense_group", "sparsity_asked")


@dataclass(frozen=True)
class Comparison:
    """The rows, the cells, and the table as it is printed."""

    rows: pd.DataFrame
    cells: pd.DataFrame
    text: str
    file_name: str

    def write(self, output: Path | None, figure: str | None, delta: str) -> list[Path]:
        """With a folder or a figure: the table, `runs.csv` (a row per run) and the figure. Raises: UsageError."""
        if output is None and figure is None:
            return []
        folder = (output or DEFAULT_OUTPUT).absolute()
        paths = save_figure(figure, self.cells, delta, folder) if figure else []
        try:
            with replacing(folder / self.file_name) as temporary:
                temporary.write_text(self.text + "\n")
            with replacing(folder / "runs.csv") as temporary:
                self.rows.to_csv(temporary, index=False)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}", "give another --output") from None
        return [*paths, folder / self.file_name, folder / "runs.csv"]


def compare(
    registry: Registry,
    table: str = "table5",
    format_name: str = "text",
    accuracy: str = "final",
    model: str | None = None,
    dataset: str | None = None,
    figure: str | None = None,
    claims_margin: float | None = None,
) -> Comparison:
    """Compare the finished retrainings of the registry's experiment; with a margin, the claims instead of a table.

    Raises: UnknownNameError, and RewindError saying which runs are needed where there is nothing to compare.
    """
    form, render = tables[table], formats[format_name]
    if figure is not None:
        figures[figure]
    rows = tidy_frame(registry)
    for column, wanted in (("model", model), ("dataset", dataset)):
        if wanted is not None:
            rows = rows[rows[column] == wanted]
    if not (rows["method"] != "none").any():
        raise _nothing(registry, rows, model, dataset)
    cells = summarise(rows, accuracy)
    if claims_margin is not None:
        table, made = "claims", verdicts(rows, claims_margin, accuracy)
        made = made if format_name in ("csv", "json") else claims_table(made)
    else:
        made = form(cells)
    if accuracy == "best":  # chosen on the test set: whoever reads the table must see it
        made = made.rename(columns=NAMES_OF_BEST)
    name = table if accuracy == "final" else f"{table}-best"
    return Comparison(rows, cells, render(made), f"{name}.{SUFFIXES[format_name]}")


def first_claim(cells: pd.DataFrame) -> str:
    """What the cells say of the report's first claim: fine-tuning's median minus that of each rewinding, in points."""
    lines = ["The report's first claim is that fine-tuning is worse than both kinds of rewinding. Here its median is"]
    one_shot = cells[cells["schedule"] == "one_shot"]
    for _, tuned in one_shot[one_shot["method"] == "finetune"].iterrows():
        same = (one_shot[[*PANEL_OF_CELL]] == tuned[[*PANEL_OF_CELL]]).all(axis=1)
        gaps = [
            f"{100 * (tuned['median'] - other['median']):+.2f} points against "
            f"{method_name(other['method'], other['label'])}"
            for _, other in one_shot[same & (one_shot["method"] != "finetune")].iterrows()
        ]
        lines.append(f"  at {tuned['compression']:.4g}x: {', '.join(gaps)} (n = {tuned['n']})")
    return "\n".join(lines)


def _nothing(registry: Registry, rows: pd.DataFrame, model: str | None, dataset: str | None) -> RewindError:
    """Which of the three kinds of run is missing, and the command that makes the next one."""
    of = " ".join(filter(None, (model and f"of {model}", dataset and f"on {dataset}")))
    prunes = [run for run in registry.search(kind="prune") if run.finished and run.dense_run_id in set(rows["run_id"])]
    if len(rows) == 0:
        hint = f"first: rewindctl train-dense --model {model or 'resnet8'} --dataset {dataset or 'digits'} --seeds 0-2"
    elif not prunes:
        hint = f"next: rewindctl prune --parent {rows['run_id'].iloc[0]} --compression 20"
    else:
        hint = f"next: rewindctl retrain --parent {prunes[0].run_id} --method lr_rewind"
    return RewindError(
        f"nothing to compare {of}{' ' if of else ''}in experiment {registry.experiment!r}: {len(rows)} dense, "
        f"{len(prunes)} prune and 0 retrain runs are finished",
        hint,
    )
