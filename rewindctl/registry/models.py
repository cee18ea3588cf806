"""Dense baselines as versions of a registered model."""

import re

from rewindctl.registry import records as tag
from rewindctl.registry.client import Client, StoreError
from rewindctl.registry.records import RunRecord
from rewindctl.registry.searching import search
from rewindctl.safe_text import markdown
from rewindctl.specs import DenseSpec

NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
MODEL_DESCRIPTION = """\
Dense baselines: `{spec.model}` trained on `{spec.dataset}`, a version for each finished run. The alias `seed-N` is
the longest of seed N, of equally long ones the newest, and stands for its run wherever a command takes one:

```
rewindctl prune --parent models:/{name}@seed-{spec.seed} --compression 10
```
"""


def dense_model(model: str, dataset: str) -> str:
    """The registered model whose versions are the dense runs of a network and a data set."""
    return f"{model}-{dataset}-dense"


def register_dense(client: Client, run_id: str, spec: DenseSpec, *, move_alias: bool = True) -> None:
    """Make the run a version of `<model>-<dataset>-dense` with the alias `seed-<n>`, new or moved to it.

    The alias stays where it names a longer baseline: what is shortened for a trial takes no name from the whole one.
    Without `move_alias` it stays wherever it is. A run that is a version already, of a process that died just then,
    is not made another. The versions of killed runs of the stage, which never finished, go.
    """
    name = dense_model(spec.model, spec.dataset)
    tags = {tag.MODEL: spec.model, tag.DATASET: spec.dataset}
    try:
        client.create_registered_model(name, tags, MODEL_DESCRIPTION.format(spec=spec, name=name))
    except StoreError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    experiment = client.get_run(run_id).info.experiment_id
    for run in search(client, [experiment], {tag.FINGERPRINT: spec.fingerprint()}):
        for version in _versions_of(client, name, run.run_id) if run.status in ("KILLED", "FAILED") else ():
            client.delete_model_version(name, version)
    version = next(iter(_versions_of(client, name, run_id)), None) or _make_version(client, name, run_id, spec)
    alias = _alias(spec)
    stays = longer_baseline(client, spec) if move_alias else alias in client.get_registered_model(name).aliases
    if not stays:
        client.set_registered_model_alias(name, alias, version)


def longer_baseline(client: Client, spec: DenseSpec) -> RunRecord | None:
    """The run that the alias of the spec's seed names, where that one is finished and has more iterations."""
    try:
        version = client.get_model_version_by_alias(dense_model(spec.model, spec.dataset), _alias(spec))
        run = RunRecord.from_mlflow(client.get_run(version.run_id))
    except StoreError as error:
        if error.code in NOT_THERE:
            return None
        raise
    return run if run.finished and not run.deleted and iterations_of(run) > spec.iterations else None


def iterations_of(run: RunRecord) -> int:
    """The updates that a run was asked for, 0 where its params do not say."""
    text = run.params.get("iterations", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def _alias(spec: DenseSpec) -> str:
    return f"seed-{spec.seed}"


def _versions_of(client: Client, name: str, run_id: str) -> list[str]:
    found = client.search_model_versions(f"run_id = '{run_id}'")
    return [str(one.version) for one in found if one.name == name]


def _make_version(client: Client, name: str, run_id: str, spec: DenseSpec) -> str:
    run = client.get_run(run_id)
    made = client.create_model_version(
        name,
        f"{run.info.artifact_uri}/checkpoints",
        run_id,
        {tag.SEED: str(spec.seed), tag.FINGERPRINT: spec.fingerprint()},
        description=f"Run [{markdown(run.info.run_name)}](#/runs/{run_id}). {run.data.tags.get(tag.NOTE, '')}",
    )
    return str(made.version)
