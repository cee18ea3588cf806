"""rewindctl ui"""

from typing import Annotated

import typer

from rewindctl.cli.session import Session, command

OPEN_TO_ALL = """\
warning: anyone who can reach {host}:{port} can read, change and delete every run: there is no password
hint: for passwords run MLflow's own server, mlflow server --app-name basic-auth (pip install 'mlflow[auth]'), or \
put a reverse proxy before this one"""


@command(kept="the UI is closed; closing it changed nothing in the store")
def ui(
    session: Session,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anyone who can reach it has access, without a password.")
    ] = ("127.0.0.1"),
    allowed_hosts: Annotated[
        str | None, typer.Option(help="More host names by which browsers may open the UI, as lab.example.org:5000.")
    ] = None,
) -> None:
    """Open the MLflow UI on the store, for this machine only; for a tracking server, print its address.

    Examples:
        rewindctl ui
        rewindctl ui --port 5001 --tracking-uri sqlite:///runs/mlflow.db
    """
    import os
    import subprocess

    from rewindctl.errors import RegistryError
    from rewindctl.registry.ui import front_page as front
    from rewindctl.registry.ui import views

    front.check_hosts(host, allowed_hosts)  # before a store is opened
    registry = session.registry(make=False)
    registry.describe()
    start = views.link(registry.experiment_id)
    line = front.ui_command(registry.uri, port, start, host, allowed_hosts)
    address = f"http://{'127.0.0.1' if host in front.ANY_ADDRESS else host}:{port}"
    if not front.is_loopback(host):
        session.console.say(OPEN_TO_ALL.format(host=host, port=port))
    front.require_free(host, port)
    session.console.say(f"{address if front.installed() else f'{address}/{start}'}  (Ctrl-C ends it)")
    # MLflow's job runners, eight processes for what no run of ours has, stay away unless asked for.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    environment |= {front.START: start, front.UI_STORE: registry.uri}
    with subprocess.Popen(line, env=environment) as process:
        try:
            failed = process.wait() != 0
        except KeyboardInterrupt:
            process.terminate()  # MLflow passes it on to its workers, which a killed MLflow would leave behind
            raise
    if failed:
        raise RegistryError(f"the MLflow UI did not start on {host}:{port}", "is the port taken? give another --port")
