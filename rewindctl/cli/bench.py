"""rewindctl bench"""

from typing import Annotated

import typer

from rewindctl.arithmetic import AUTO, Arithmetic
from rewindctl.cli import complete
from rewindctl.cli.session import Compile, Session, UpdateStep, command


@command()
def bench(
    session: Session,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Network to measure; may be given again. [the paper's four]", autocompletion=complete.names("model")
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Measuring time per network, in seconds.")] = 10.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = AUTO,
    update_step: UpdateStep = AUTO,
    compile: Compile = False,
) -> None:
    """Measure what this machine will do: iterations per second of the paper's networks, hours of each study.

    On noise of CIFAR-10's shape: no data set is needed. Where kernels of our own run, trials at once are measured too,
    and kept for what --jobs chooses.

    Examples:
        rewindctl bench
        rewindctl bench --model resnet20 --seconds 5 --device cpu
        rewindctl bench --model resnet20 --model resnet56 --json
    """
    from rewindctl.checks.lane_speed import LaneKind, lane_curve, why_no_lanes
    from rewindctl.checks.speed import measured_speed
    from rewindctl.paper.bench import DATASET, bench_json, bench_text, specs_to_measure
    from rewindctl.training.device import device_name, resolve_device
    from rewindctl.training.step import choose_step

    arithmetic = Arithmetic(precision, step=update_step, compiled=compile)
    chosen = resolve_device(device)
    choose_step(update_step, chosen)
    no_lanes = why_no_lanes(chosen, arithmetic)
    speeds, curves = {}, {}
    for spec in specs_to_measure(model or (), session.facts, seconds):
        session.console.say(f"measuring {spec.model} ...")
        speeds[spec.model] = measured_speed(spec, session.facts(DATASET), chosen, seconds, arithmetic)
        kind = LaneKind(spec, session.facts(DATASET), chosen, arithmetic)
        if not no_lanes and not kind.unfit:
            curves[spec.model] = lane_curve(kind, say=session.console.say, anew=True)
    made = bench_json(speeds, session.facts, device_name(chosen), curves, no_lanes)
    if session.json:
        session.console.json(made)
    else:
        session.console.data(bench_text(made))
