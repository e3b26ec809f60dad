"""``ngd-theory verify``."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ngd_theory.cli.memory import MemoryPlan
from ngd_theory.cli.status import (
    Debug,
    Exit,
    NoCache,
    Output,
    guarded,
    named_path,
    verdict_status,
)


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


@guarded
def verify(
    dataset: Annotated[
        str,
        typer.Option(
            help="mnist, fashion-mnist, digits, gaussian, cifar10, svhn, openml:NAME or PATH.npz."
        ),
    ] = "mnist",
    classes: Annotated[str, typer.Option(help="Classes to keep, such as 0,1.")] = "",
    num_train: Annotated[int, typer.Option(help="N, training samples.")] = 100,
    num_test: Annotated[int, typer.Option(help="Test samples.")] = 100,
    width: Annotated[int, typer.Option(help="M, width of every hidden layer.")] = 1024,
    depth: Annotated[int, typer.Option(help="L, number of affine layers.")] = 3,
    activation: Annotated[str, typer.Option(help="relu, tanh, erf, gelu or identity.")] = "relu",
    weight_std: Annotated[float, typer.Option(help="sigma_w.")] = 2**0.5,
    bias_std: Annotated[float, typer.Option(help="sigma_b; 0 leaves the biases out.")] = 0.0,
    approximations: Annotated[
        str, typer.Option(help="Comma-separated; all but kfac-tridiagonal when left out.")
    ] = "",
    step_scale: Annotated[float, typer.Option(help="eta times alpha.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 5,
    damping: Annotated[float, typer.Option(help="rho; 0 is the limit rho -> 0.")] = 1e-8,
    loss: Annotated[str, typer.Option(help="mse or cross-entropy.")] = "mse",
    seed: Annotated[int, typer.Option(help="Seed of data choice and parameters.")] = 0,
    precision: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    forster: Annotated[
        bool, typer.Option("--forster", help="Forster transform of the inputs (N > M_0).")
    ] = False,
    input_dim: Annotated[
        int | None, typer.Option(help="Keep this many principal components (gaussian: M_0).")
    ] = None,
    output_dim: Annotated[int | None, typer.Option(help="C, for gaussian.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(parser=named_path, metavar="FOLDER", help="Folder of original data files."),
    ] = None,
    kernel: Annotated[
        str,
        typer.Option(help="empirical, or infinite: predict with the infinite width's kernels too."),
    ] = "empirical",
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what the run would hold in memory; do not run.")
    ] = False,
    memory_limit: Annotated[
        str | None,
        typer.Option(help="Refuse to run with more, such as 8G, not what is free."),
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=named_path, metavar="FOLDER", help="Folder for the results.")
    ] = Path("results/verify"),
    strict: Annotated[
        bool, typer.Option("--strict", help="A claim that is NOT APPLICABLE fails.")
    ] = False,
    no_cache: NoCache = False,
    debug: Debug = False,
) -> int:
    """Check every claim on one network and data set.

    Exit status 0: no claim fails; 1: one does; 2: bad input; 3: none applies; 4: our fault.
    """
    values = {
        "dataset": dataset,
        "classes": _split(classes) or None,
        "num_train": num_train,
        "num_test": num_test,
        "width": width,
        "depth": depth,
        "activation": activation,
        "weight_std": weight_std,
        "bias_std": bias_std,
        "approximations": _split(approximations),
        "step_scale": step_scale,
        "steps": steps,
        "damping": damping,
        "loss": loss,
        "seed": seed,
        "precision": precision,
        "forster": forster,
        "input_dim": input_dim,
        "output_dim": output_dim,
        "data_dir": data_dir,
        "kernel": kernel,
    }
    if explain:
        return _explain(values, memory_limit)
    return _verify(values, out, memory_limit, strict, no_cache)


def _explain(values: dict, memory_limit: str | None) -> int:
    from ngd_theory import claims

    plan = MemoryPlan(claims.parse(values))
    plan.show(Output(120))
    if memory_limit is not None:
        plan.require(memory_limit)
    return Exit.HOLDS


def _verify(values: dict, out: Path, memory_limit: str | None, strict: bool, no_cache: bool) -> int:
    import jax

    from ngd_theory import claims, compilation_cache, report
    from ngd_theory.files import check_output_folder
    from ngd_theory.threads import limit_blas_threads

    compilation_cache.turn_off() if no_cache else compilation_cache.turn_on()
    settings = claims.parse(values)
    limit_blas_threads()
    jax.config.update("jax_enable_x64", settings.precision == "float64")
    check_output_folder(out)
    MemoryPlan(settings).require(memory_limit)
    errors = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
    ) as progress:
        task = progress.add_task("starting")

        def tell(message: str) -> None:
            progress.update(task, description=message)
            if not errors.is_terminal:
                print(message, file=sys.stderr, flush=True)

        found = claims.verify(settings, tell)
        tell("drawing")
        out.mkdir(parents=True, exist_ok=True)
        report.write_result(found, out / "result.json")
        report.draw_dynamics(found, out / "dynamics.png")
        report.draw_isotropy(found, out / "isotropy.png")

    wide = Output(140)
    report.print_report(found, wide)
    outcomes = [v.status for v in found.verdicts]
    counts = ", ".join(f"{outcomes.count(s)} {s}" for s in claims.Status)
    device = jax.devices()[0]
    wide.print(
        f"{counts} on {device.platform} ({device.device_kind}) in {found.seconds:.1f} s. "
        f"Results in {out}/: result.json, dynamics.png, isotropy.png",
        soft_wrap=True,
    )
    return verdict_status(
        fails=not found.holds,
        judged=any(status is not claims.Status.NOT_APPLICABLE for status in outcomes),
        open=claims.Status.NOT_APPLICABLE in outcomes,
        strict=strict,
    )
