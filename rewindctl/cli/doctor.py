"""rewindctl doctor"""

from pathlib import Path
from typing import Annotated

import typer

from rewindctl.cli.session import Session, command
from rewindctl.errors import RewindError


@command()
def doctor(
    session: Session,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of data sets. [$REWINDCTL_DATA, user cache]")] = None,
) -> None:
    """Say what there is to work with: versions, device, store, data, and what would be chosen and why.

    Examples:
        rewindctl doctor
        rewindctl doctor --device cuda --json
    """
    from dataclasses import asdict

    from rewindctl.checks.diagnosis import diagnosis
    from rewindctl.engines.choose import parallel_text

    findings = diagnosis(device, session.tracking_uri, data_dir, parallel_text)
    if session.json:
        session.console.json([asdict(finding) for finding in findings])
    for finding in findings if not session.json else ():
        session.console.data(f"{finding.topic:14} {finding.text}")
        if finding.advice:
            session.console.data(f"{'':14} -> {finding.advice}")
    if wrong := [finding.topic for finding in findings if finding.wrong]:
        raise RewindError(f"{' and '.join(wrong)} will not work with this setup", "see the lines above")
