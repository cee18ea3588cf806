"""The experiment that a registry is opened on: which one it is, found or made, with its views in the UI."""

import hashlib
import os
import re

from rewindctl.catalog import unknown
from rewindctl.errors import RegistryError, UsageError
from rewindctl.registry.records import text_of
from rewindctl.registry.roots.binding import ROOT
from rewindctl.registry.runs.opening import project_run
from rewindctl.registry.runs.reading import BOTH
from rewindctl.registry.store.address import absolute_uri, sqlite_path
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.connect import connect
from rewindctl.registry.store.failures import StoreError
from rewindctl.registry.ui.views import experiment_tags
from rewindctl.system.safe_text import redacted

DEFAULT_EXPERIMENT = "rewindctl"
LONGEST_NAME, LONGEST_FOLDER = 500, 80  # MLflow's limit; what is left of a name in that of its folder
PLAIN = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{LONGEST_FOLDER - 1}}}")  # a name that is its folder's too


def open_experiment(client: Client, name: str | None, make: bool, make_default: bool) -> tuple[str, str]:
    """Name and ID of the experiment that is meant, made where it is missing.

    Without `make` the default one alone is made, without `make_default` none. Raises: RegistryError, UnknownNameError.
    """
    if name is None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or None
    elif not name.strip():
        raise UsageError(f"--experiment is {name!r}", "give a name, or leave it out")
    project = None
    if os.environ.get("MLFLOW_EXPERIMENT_ID") and os.environ.get("MLFLOW_RUN_ID"):
        _require_project_run(client)
        project = project_run(client)
    if name is None and project is not None:  # inside `mlflow run`: stay where its run is
        found = client.impatient().get_experiment(client.get_run(project).info.experiment_id)
        return found.name, found.experiment_id
    name = name or DEFAULT_EXPERIMENT
    return name, _find_or_make(client, name, make or (make_default and name == DEFAULT_EXPERIMENT))


def _find_or_make(client: Client, name: str, make: bool) -> str:
    quick = client.impatient()  # a wrong address is said at once
    found = quick.get_experiment_by_name(name)
    if found is None and not make:
        names = sorted(one.name for one in client.search_experiments())
        others = "see them: rewindctl doctor; make one: rewindctl init --experiment NAME"
        raise unknown("no experiment", name, names, others=others)
    if found is None:
        _check_name(name)
        try:
            place, mark = _place_of(client, name)
            return str(client.create_experiment(name, place, experiment_tags() | mark))
        except StoreError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = quick.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise RegistryError(
                    f"experiment {name!r} can be neither created nor read: {error.message}",
                    "give another --experiment",
                ) from None
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"experiment {name!r} was deleted", f"restore it: mlflow experiments restore -x {found.experiment_id}"
        )
    return str(found.experiment_id)


def _require_project_run(client: Client) -> None:
    """`mlflow run` of an address works in a folder of its own, where a relative path is another, passing store.

    Raises: RegistryError.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    relative = not uri.partition("://")[2].startswith("//")
    here = sqlite_path(uri) is not None and relative and absolute_uri(uri) == client.uri
    fresh = here and len(client.search_experiments(view_type=BOTH, max_results=2)) < 2  # else the run is an old one
    if fresh and project_run(client) is None:
        raise RegistryError(
            f"the run that mlflow run started is not in {client.display_uri}, the store that {uri} means here",
            "give mlflow run an absolute MLFLOW_TRACKING_URI, such as sqlite:////home/me/mlflow.db",
        )


def _place_of(client: Client, name: str) -> tuple[str | None, dict[str, str]]:
    """Where the files of a new experiment go, and the tag that binds them to it; a server decides for itself."""
    if (binding := client.binding) is None:
        return None, {}
    folder = _folder_of(client, name)
    root, mark = client.patiently(lambda: binding.new_root(folder))
    return root.as_uri(), {ROOT: mark}


def _folder_of(client: Client, name: str) -> str:
    """The name of the folder of an experiment's files: its own, where no other experiment has that."""
    others = client.search_experiments(view_type=BOTH)
    taken = {text_of(other.artifact_location).rstrip("/").rpartition("/")[2] for other in others}
    if PLAIN.fullmatch(name) and name not in taken:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:LONGEST_FOLDER]}-{digest}"


def _check_name(name: str) -> None:
    """Raises: UsageError for what no experiment is to be called."""
    if len(name) > LONGEST_NAME or not name.isprintable():
        why = f"has more than {LONGEST_NAME} characters" if len(name) > LONGEST_NAME else "has control characters"
        raise UsageError(f"the experiment name {name!r:.80} {why}", "give another --experiment")


def experiment_of(tracking_uri: str, run_id: str) -> str:
    """The name of the experiment that a run is in. Raises: UsageError when there is no such run."""
    client = connect(tracking_uri)
    try:
        return str(client.get_experiment(client.get_run(run_id).info.experiment_id).name)
    except StoreError as error:
        if error.code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UsageError(f"no run {run_id!r} in {redacted(tracking_uri)}", "was its store created again?") from None


def describe(client: Client, experiment_id: str) -> None:
    """Give an experiment that was made otherwise its description and its views in the UI; what it has is kept."""
    present = client.get_experiment(experiment_id).tags
    for key, value in experiment_tags().items():
        if key not in present:
            client.set_experiment_tag(experiment_id, key, value)
