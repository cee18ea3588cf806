"""rewindctl ui"""

from typing import Annotated

import typer

from rewindctl.cli.session import Session, command


@command(kept="the UI is closed, the store is as it was")
def ui(
    session: Session,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine's loopback address.")] = 5000,
) -> None:
    """Open the MLflow UI on the store; for a tracking server, say its address.

    Examples:
        rewindctl ui
        rewindctl ui --port 5001 --tracking-uri sqlite:///runs/mlflow.db
    """
    import os
    import subprocess

    from rewindctl.errors import RegistryError
    from rewindctl.registry import front, views
    from rewindctl.registry.store import ui_command

    registry = session.registry()
    registry.describe()
    start = views.link(registry.experiment_id)
    line = ui_command(registry.uri, port, start)
    address = f"http://127.0.0.1:{port}"
    session.console.say(f"{address if front.installed() else f'{address}/{start}'}  (Ctrl-C ends it)")
    # MLflow's job runners, eight processes for what no run of ours has, stay away unless asked for.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ, front.START: start}
    environment["MLFLOW_BACKEND_STORE_URI"] = registry.uri
    with subprocess.Popen(line, env=environment) as process:
        try:
            failed = process.wait() != 0
        except KeyboardInterrupt:
            process.terminate()  # MLflow passes it on to its workers, which a killed MLflow would leave behind
            raise
    if failed:
        raise RegistryError(f"the MLflow UI did not start on port {port}", "is the port taken? give another --port")


def register(app: typer.Typer) -> None:
    app.command("ui")(ui)
