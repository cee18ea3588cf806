"""MLflow's own UI with another front door: it opens on our runs.

MLflow starts its UI in a mode for chat traces, with an assistant open beside it, and keeps the choice of another in the
browser. This is its application (a plug-in of `mlflow server --app-name`) with a few lines before its start page that
make the choice once; whoever chooses otherwise in the UI is left in peace.
"""

import json
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rewindctl.registry.store.mlflow_internals import ui

APP = "rewindctl"
START = "REWINDCTL_UI_START"  # the page to open at the bare address, from the `#` on
CHOICES = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,
}


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
    start = start if start.startswith("#") else ""  # a place of this page, and no other address
    return (
        f"try {{ for (const [key, value] of Object.entries({json.dumps(choices)}))"
        " if (localStorage.getItem(key) === null) localStorage.setItem(key, value) } catch (error) {}"
        f" if (!location.hash) location.replace({_in_script(start)} || '#/')"
    )


def _in_script(text: str) -> str:
    """The text as JavaScript has it, nothing in it the end of the script."""
    return json.dumps(text).replace("<", "\\u003c")
