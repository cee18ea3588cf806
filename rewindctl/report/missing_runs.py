"""What is said where there is nothing to compare: which run is missing, and how to make it."""

import pandas as pd

from rewindctl.counting import count_of
from rewindctl.datasets.files import require_dataset
from rewindctl.errors import RewindError
from rewindctl.registry import Registry
from rewindctl.report.rows import Files


def nothing_to_compare(
    source: Registry | Files, rows: pd.DataFrame, model: str | None, dataset: str | None
) -> RewindError:
    """Which of the three kinds of run is missing, and the command that makes the next one.

    Raises: UsageError for a network or a data set that there is not.
    """
    _require_names(source, model, dataset)
    of = " ".join(filter(None, (model and f"of {model}", dataset and f"on {dataset}")))
    if isinstance(source, Files):
        return RewindError(
            f"nothing to compare {of}{' ' if of else ''}in {source.name}", "there is no row of a retraining"
        )
    prunes = [run for run in source.search(kind="prune") if run.finished and run.dense_run_id in set(rows["run_id"])]
    if len(rows) == 0:
        hint = f"first: rewindctl train-dense --model {model or 'resnet8'} --dataset {dataset or 'digits'} --seeds 0-2"
    elif not prunes:
        hint = f"next: rewindctl prune --parent {rows['run_id'].iloc[0]} --compression 20"
    else:
        hint = f"next: rewindctl retrain --parent {prunes[0].run_id} --method lr_rewind"
    orphans = [run for run in source.search(kind="retrain") if run.finished]  # with a lineage each would be a row
    found = f"{len(rows)} dense, {len(prunes)} prune and 0 retrain runs are finished"
    if orphans and not (model or dataset):
        found += f", and {count_of(len(orphans), 'retrain run')} whose parent or dense run is gone"
        gone = f"see what is gone: rewindctl lineage {orphans[0].run_id}"
        hint = f"{gone}; restore it (mlflow runs restore --run-id), or {hint}"
    return RewindError(f"nothing to compare {of}{' ' if of else ''}in experiment {source.experiment!r}: {found}", hint)


def _require_names(source: Registry | Files, model: str | None, dataset: str | None) -> None:
    """Raises: UsageError for a name that no run has and that is none of ours; a run may have a plug-in's."""
    from rewindctl.models import models

    def in_runs(column: str, name: str) -> bool:
        return name in set(source.rows[column]) if isinstance(source, Files) else bool(source.search(**{column: name}))

    if model is not None and not in_runs("model", model):
        models[model]
    if dataset is not None and not in_runs("dataset", dataset):
        require_dataset(dataset, None)
