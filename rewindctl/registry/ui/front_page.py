"""MLflow's own UI with a start page of ours: the command that serves it, for this machine only by default.

MLflow starts its UI in a mode for chat traces, with an assistant open beside it, and keeps the choice of another in the
browser. `create_app` is its application (a plug-in of `mlflow server --app-name`) with a few lines before its start
page that set this choice once; a later choice by the user is kept.
"""

import ipaddress
import json
import os
import re
import socket
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rewindctl.errors import RegistryError, UsageError
from rewindctl.registry.store.address import is_server
from rewindctl.registry.store.mlflow_internals import ui
from rewindctl.system.safe_text import redacted

APP = "rewindctl"
START = "REWINDCTL_UI_START"  # the page to open at the bare address, from the `#` on
CHOICES = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,
}
LOOPBACK, ANY_ADDRESS = "127.0.0.1", ("0.0.0.0", "::", "[::]")
NAME = r"[A-Za-z0-9*\[:][A-Za-z0-9.:*\[\]-]*"
HOST, HOSTS = re.compile(NAME), re.compile(f"{NAME}(,{NAME})*")
UI_STORE = "MLFLOW_BACKEND_STORE_URI"  # not on the command line, where everyone on the machine could read a password


def ui_command(
    uri: str, port: int, start: str = "", host: str = LOOPBACK, allowed_hosts: str | None = None
) -> list[str]:
    """The command that serves the MLflow UI of a store. `start`: the page to begin at; `uri` is for `UI_STORE`.

    Only browsers that ask for this machine by a name of its own are answered: a page from elsewhere cannot reach the
    loopback address under a name that its author points there. MLflow's own list has `10.*`, names too.

    Raises: RegistryError for a tracking server, which has its UI at its own address; UsageError.
    """
    check_hosts(host, allowed_hosts)
    if is_server(uri):
        raise RegistryError(
            f"{redacted(uri)} is a tracking server",
            f"it has the UI: open {redacted(uri).rstrip('/')}/{start} in a browser",
        )
    names = ["localhost", LOOPBACK, *([host] if host not in ANY_ADDRESS else [])]
    allowed = [f"{name}:{port}" for name in dict.fromkeys(names)] + (allowed_hosts.split(",") if allowed_hosts else [])
    return [
        *(sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)),
        *(["--allowed-hosts", ",".join(allowed)] if allowed_hosts or host not in ANY_ADDRESS else []),
        *(["--app-name", APP] if installed() else []),
        *("--workers", "1"),  # for one person; each one more takes seconds to start and hundreds of MB
    ]


def check_hosts(host: str, allowed_hosts: str | None) -> None:
    """Raises: UsageError for what is not an address, or no list of names."""
    if not HOST.fullmatch(host):
        raise UsageError(f"--host {host!r:.100} is not an address", "give a name or an IP address, as 127.0.0.1")
    if allowed_hosts is not None and not HOSTS.fullmatch(allowed_hosts):
        raise UsageError(f"--allowed-hosts {allowed_hosts!r:.100} is not a list of names", "write lab.example.org:5000")


def require_free(host: str, port: int) -> None:
    """Raises: RegistryError when nothing can listen there: MLflow would end without an exit code that says so."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), port))
    except OSError as error:
        raise RegistryError(
            f"the MLflow UI cannot listen at {host}:{port}: {error.strerror or error}",
            "is the port taken? give another --port",
        ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def installed() -> bool:
    """Whether MLflow can find this application; not where the package was installed by an earlier version."""
    return bool(entry_points(group="mlflow.app", name=APP))


def create_app() -> Any:
    """MLflow's application; its start page with the choices before it."""
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    app, folder = ui()
    page = Path(folder, "index.html").read_text()
    page = page.replace("<head>", f"<head><script>{_script(os.environ.get(START, ''))}</script>", 1)
    answer = HTMLResponse(page, headers={"Cache-Control": "no-cache"})
    app.router.routes.insert(0, Route("/", lambda request: answer))
    return app


def _script(start: str) -> str:
    choices = {key: json.dumps(value) for key, value in CHOICES.items()}
    start = json.dumps(start if start.startswith("#") else "")  # a place of this page, and no other address
    start = start.replace("<", "\\u003c")  # nothing in it ends the script
    return (
        f"try {{ for (const [key, value] of Object.entries({json.dumps(choices)}))"
        " if (localStorage.getItem(key) === null) localStorage.setItem(key, value) } catch (error) {}"
        f" if (!location.hash) location.replace({start} || '#/')"
    )
