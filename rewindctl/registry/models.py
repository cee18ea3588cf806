"""Dense baselines as versions of a registered model: made, found, and deleted with their run."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from rewindctl.errors import RegistryError, RewindError
from rewindctl.registry import records as tag
from rewindctl.registry.records import RunRecord
from rewindctl.registry.runs.reading import read, search
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import DeniedError, StoreError, none_if_missing
from rewindctl.specs import DenseSpec
from rewindctl.system.safe_text import markdown

Baseline = tuple[RunRecord, int]  # a finished dense run, and which version of its model it is
DENSE_MODEL, SEED_ALIAS = "-dense", "seed-"
MODEL_DESCRIPTION = """\
Dense baselines: `{spec.model}` trained on `{spec.dataset}`, a version for each finished run. The alias `seed-N` is
the longest of seed N, of equally long ones the newest, and stands for its run wherever a command takes one:

```
rewindctl prune --parent models:/{name}@seed-{spec.seed} --compression 10
```
"""


def dense_model(model: str, dataset: str) -> str:
    """The registered model whose versions are the dense runs of a network and a data set."""
    return f"{model}-{dataset}{DENSE_MODEL}"


def register_dense(client: Client, run: RunRecord, spec: DenseSpec) -> None:
    """Make a finished run a version of `<model>-<dataset>-dense` with the alias `seed-<n>`, new or moved to it.

    The alias stays where it names a baseline that is longer, or as long and newer: what is shortened for a trial takes
    no name from the whole one. For an imported run it stays with any baseline. The same again does what is left, as of
    a process that died within. Raises: StoreError.
    """
    name = dense_model(spec.model, spec.dataset)
    version = _version_of(client, name, run)
    if version is None:
        _make_model(client, name, spec)
        version = made = _make_version(client, name, run, spec)
        if (first := _version_of(client, name, run)) is not None and first < made:
            version = first  # another process registered the run at the same time: the earlier version stays
            with suppress(DeniedError):
                client.delete_model_version(name, str(made))
        _drop_unfinished(client, name, run, spec)
    named = _named(client, spec)
    if named is None or (tag.IMPORT not in run.tags and goes_before((run, version), named)):
        client.set_registered_model_alias(name, _alias(spec), str(version))


def refusal(client: Client, spec: DenseSpec) -> DeniedError | None:
    """Why the user may not make versions of the model that a baseline is to be one of, None where they may.

    Asked by writing what the model says already; one that is not there yet, or not ours, is not asked. Raises:
    StoreError.
    """
    name = dense_model(spec.model, spec.dataset)

    def write_the_same() -> None:
        if client.get_registered_model(name).tags.get(tag.MODEL) == spec.model:
            client.set_registered_model_tag(name, tag.MODEL, spec.model)

    try:
        none_if_missing(write_the_same)
    except DeniedError as error:
        return error
    return None


def unregistered(client: Client, runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The finished dense runs that are no version of their model."""
    dense = [run for run in runs if run.kind == "dense" and run.finished and not run.deleted]
    models = {model_of(run) for run in dense}
    known = {(one.name, one.run_id) for name in models if "'" not in name for one in versions(client, name=name)}
    return [run for run in dense if (model_of(run), run.run_id) not in known]


def unregistered_text(spec: DenseSpec, error: RewindError) -> str:
    """The end of a message about a finished baseline that is no version of its model: that, why, and what to do."""
    name = dense_model(spec.model, spec.dataset)
    return (
        f"is finished, but not registered as a version of {name}: {error.message}: {error.hint}; then rewindctl recover"
    )


def longer_baseline(client: Client, spec: DenseSpec) -> RunRecord | None:
    """The baseline that the alias of the spec's seed names, where that one has more iterations."""
    named = _named(client, spec)
    return named[0] if named and iterations_of(named[0]) > spec.iterations else None


def is_baseline(run: RunRecord, model: str, seed: str) -> bool:
    """Whether a run is what the alias `seed-<seed>` of a registered model stands for: a finished dense run of its."""
    here = run.kind == "dense" and run.finished and not (run.deleted or run.damage)
    return here and model_of(run) == model and run.tags.get(tag.SEED) == seed


def seed_of(alias: str) -> str | None:
    """The seed in the alias `seed-<n>`, None for others."""
    return alias.removeprefix(SEED_ALIAS) if re.fullmatch(rf"{SEED_ALIAS}[0-9]+", alias) else None


def model_of(run: RunRecord) -> str:
    """The registered model of a dense run."""
    return dense_model(run.tags.get(tag.MODEL, ""), run.tags.get(tag.DATASET, ""))


def run_of(client: Client, version: Any) -> RunRecord | None:
    """The run that a version is of, None where it has none, or one that is gone. Raises: StoreError."""
    return none_if_missing(lambda: read(client, version.run_id)) if version.run_id else None


def versions(client: Client, **where: str) -> Iterator[Any]:
    """Every version of a model (`name`) or of a run (`run_id`). Raises: StoreError."""
    ((key, value),) = where.items()
    token: str | None = ""
    while token is not None:
        page = client.search_model_versions(f"{key} = '{value}'", page_token=token or None)
        yield from page
        token = page.token or None


def goes_before(one: Baseline, other: Baseline) -> bool:
    """Whether the first has the alias of their seed: the longer one; of equally long ones of one experiment the newest,
    of several the one that was registered last. No clock decides.
    """
    lengths = iterations_of(one[0]), iterations_of(other[0])
    if lengths[0] != lengths[1]:
        return lengths[0] > lengths[1]
    same, there = (one[0].fingerprint, _root(one[0])), (other[0].fingerprint, _root(other[0]))
    return one[0].age > other[0].age if same == there else one[1] > other[1]


def _root(run: RunRecord) -> str:
    """Where the files of the run's experiment are: tickets are those of one experiment."""
    return run.artifact_uri.partition(f"/{run.run_id}/")[0]


def _named(client: Client, spec: DenseSpec) -> Baseline | None:
    """The baseline that the alias of the spec's seed names, None where it names anything else."""
    name = dense_model(spec.model, spec.dataset)
    version = none_if_missing(lambda: client.get_model_version_by_alias(name, _alias(spec)))
    if version is None:
        return None
    run = run_of(client, version)
    return (run, int(version.version)) if run and is_baseline(run, name, str(spec.seed)) else None


def iterations_of(run: RunRecord) -> int:
    """The updates that a run was asked for, 0 where its params do not say."""
    text = run.params.get("iterations", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def _alias(spec: DenseSpec) -> str:
    return f"{SEED_ALIAS}{spec.seed}"


def _make_model(client: Client, name: str, spec: DenseSpec) -> None:
    if none_if_missing(lambda: client.get_registered_model(name)) is not None:
        return  # who may not make models may be let to this one
    tags = {tag.MODEL: spec.model, tag.DATASET: spec.dataset}
    try:
        client.create_registered_model(name, tags, MODEL_DESCRIPTION.format(spec=spec, name=name))
    except StoreError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":  # another process was first
            raise


def _drop_unfinished(client: Client, name: str, run: RunRecord, spec: DenseSpec) -> None:
    """Delete the versions that earlier rewindctls made of runs of the stage before these were killed."""
    experiment = client.get_run(run.run_id).info.experiment_id
    for other in search(client, [experiment], {tag.FINGERPRINT: spec.fingerprint()}):
        for version in versions(client, run_id=other.run_id) if other.status in ("KILLED", "FAILED") else ():
            with suppress(DeniedError):  # it is no baseline, wherever one is read
                if version.name == name:
                    client.delete_model_version(name, version.version)


def _version_of(client: Client, name: str, run: RunRecord) -> int | None:
    """The first version of the model that is of a run."""
    return min((int(one.version) for one in versions(client, run_id=run.run_id) if one.name == name), default=None)


def _make_version(client: Client, name: str, run: RunRecord, spec: DenseSpec) -> int:
    made = client.create_model_version(
        name,
        f"{run.artifact_uri}/checkpoints",
        run.run_id,
        {tag.SEED: str(spec.seed), tag.FINGERPRINT: spec.fingerprint()},
        description=f"Run [{markdown(run.name)}](#/runs/{run.run_id}). {run.tags.get(tag.NOTE, '')}",
    )
    return int(made.version)


def refuse_foreign_versions(client: Client, run: RunRecord) -> None:
    """Raises: RegistryError when a run is a version of a model that rewindctl did not register."""
    for version, model in _versions_of(client, run):
        if tag.MODEL not in model.tags:
            raise RegistryError(
                f"run {run.run_id} is version {version.version} of {version.name!r}, which is no model of rewindctl",
                "delete that version first, in the MLflow UI",
            )


def drop_versions(client: Client, run: RunRecord) -> None:
    """Delete the versions that a run is; an alias of one moves to the longest other run of its seed.

    A model without versions goes too. Raises: RegistryError.
    """
    for version, model in _versions_of(client, run):
        if tag.MODEL not in model.tags:
            continue
        for alias in [name for name, number in model.aliases.items() if str(number) == str(version.version)]:
            if (heir := _heir(client, version, seed_of(alias) or run.tags.get(tag.SEED, ""))) is not None:
                client.set_registered_model_alias(version.name, alias, heir)
        client.delete_model_version(version.name, version.version)
    if run.kind == "dense":
        name = model_of(run)
        with suppress(StoreError):  # there is none
            if tag.MODEL in client.get_registered_model(name).tags and not list(versions(client, name=name)):
                client.delete_registered_model(name)


def _versions_of(client: Client, run: RunRecord) -> Iterator[tuple[Any, Any]]:
    for version in list(versions(client, run_id=run.run_id)):
        yield version, client.get_registered_model(version.name)


def _heir(client: Client, version: Any, seed: str) -> str | None:
    """The version of the longest other baseline of a seed, the newest of equally long ones."""
    heir: Baseline | None = None
    for other in versions(client, name=version.name):
        run = run_of(client, other) if other.version != version.version else None
        if run is not None and is_baseline(run, version.name, seed):
            found = run, int(other.version)
            heir = found if heir is None or goes_before(found, heir) else heir
    return str(heir[1]) if heir else None
