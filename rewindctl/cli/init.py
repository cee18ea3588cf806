"""rewindctl init"""

from rewindctl.cli.session import Session, command


@command()
def init(session: Session) -> None:
    """Create the tracking store and the experiment; the first command that needs them also creates them.

    Examples:
        rewindctl init
        rewindctl init --tracking-uri sqlite:///runs/mlflow.db --experiment night
    """
    registry = session.registry()
    registry.describe()
    if session.json:
        session.console.json({"tracking_uri": registry.display_uri, "experiment": registry.experiment})
        return
    session.console.data(f"{registry.display_uri}")
    session.console.say(f"experiment {registry.experiment!r} is ready")
