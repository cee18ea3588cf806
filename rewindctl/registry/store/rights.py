"""What a server refuses to its user: which right is missing, on what, and whom to ask for it.

The names of rights are those of MLflow's basic-auth server: READ, EDIT, MANAGE.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from rewindctl.registry.store import outage
from rewindctl.registry.store.address import is_server
from rewindctl.registry.store.mlflow_internals import saved_user
from rewindctl.system.safe_text import user_info

UNKNOWN, DENIED = "UNAUTHENTICATED", "PERMISSION_DENIED"
STATUS = {401: UNKNOWN, 403: DENIED}  # HTTP; artifacts are sent without MLflow's codes
VERBS = {"READ": "read", "EDIT": "edit", "MANAGE": "delete from"}
IN_EXPERIMENT = re.compile(r"/([0-9]+)/[0-9a-f]{32}/artifacts")


def refused(error: BaseException) -> str:
    """MLflow's code where a server refused a user or what the user asked for, else empty."""
    for link in outage.chain(error):
        code = getattr(link, "error_code", "")
        status = STATUS.get(getattr(getattr(link, "response", None), "status_code", None) or 0, "")
        if found := code if code in STATUS.values() else status:
            return found
    return ""


def user_of(uri: str) -> str:
    """The user whose credentials a server is sent, empty where there are none; never a password."""
    name = unquote(user_info(uri).partition(":")[0])
    if not name and is_server(uri):
        with suppress(Exception):  # a file of credentials that is not readable
            name = saved_user()
    return name


def missing(mlflow: Any, method: str, values: tuple[Any, ...]) -> tuple[str, str]:
    """The right that a call wants, and on what."""
    if "registered_model" in method or "model_version" in method:
        name = next((value for value in values if isinstance(value, str)), "")
        return _right(method), f"registered model {name!r}" if name else "registered models"
    return _right(method), _experiment(mlflow, method, values)


def _right(method: str) -> str:
    if method.startswith(("get_", "search_", "list_", "download_")):
        return "READ"
    deletes = method.startswith(("delete_", "restore_")) and not method.endswith(("_tag", "_alias"))
    return "MANAGE" if deletes else "EDIT"


def _experiment(mlflow: Any, method: str, values: tuple[Any, ...]) -> str:
    """The experiment that a call is about, by its name where the user may read that."""
    for text in _texts(values):
        if method == "get_experiment_by_name":
            return f"experiment {text!r}"
        with suppress(Exception):  # nothing of this is more than a help
            found = IN_EXPERIMENT.search(text)
            number = found[1] if found else text if text.isdecimal() else mlflow.get_run(text).info.experiment_id
            return f"experiment {mlflow.get_experiment(number).name!r}"
        return f"experiment {text}" if text.isdecimal() else f"the experiment of run {text}"
    return "experiments"


def _texts(values: tuple[Any, ...]) -> Iterator[str]:
    for value in values:
        yield from value if isinstance(value, list) else [value] if isinstance(value, str) else []
