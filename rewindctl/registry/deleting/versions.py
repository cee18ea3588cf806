"""The versions of registered models that a run is: they go with it, their aliases to the longest that are left."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from rewindctl.errors import RegistryError
from rewindctl.registry import records as tag
from rewindctl.registry.models import Baseline, goes_before, is_baseline, model_of, run_of, seed_of, versions
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.store.client import Client, StoreError


def refuse_foreign_versions(registry: Registry, run: RunRecord) -> None:
    """Raises: RegistryError when a run is a version of a model that rewindctl did not register."""
    for version, model in _versions(registry.client, run):
        if tag.MODEL not in model.tags:
            raise RegistryError(
                f"run {run.run_id} is version {version.version} of {version.name!r}, which is no model of rewindctl",
                "delete that version first, in the MLflow UI",
            )


def drop_versions(registry: Registry, run: RunRecord) -> None:
    """Delete the versions that a run is; an alias of one moves to the longest other run of its seed.

    A model without versions goes too. Raises: RegistryError.
    """
    client = registry.client
    for version, model in _versions(client, run):
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


def _versions(client: Client, run: RunRecord) -> Iterator[tuple[Any, Any]]:
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
