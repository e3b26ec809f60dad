"""``ngd-theory verify``."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ngd_theory.cli.memory import MemoryPlan
from ngd_theory.cli.status import (
    Debug,
    Exit,
    Imports,
    NoCache,
    Output,
    guarded,
    named_path,
    verdict_status,
)
from ngd_theory.experiment.settings import Settings


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _type(annotation: Any) -> Any:
    """Type that the command line reads for a setting: str for words and lists, else the setting's own type."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return str if get_origin(annotation) in (Literal, tuple) else annotation


def _settings_options() -> Iterator[inspect.Parameter]:
    """Yield one option for each field of `Settings`, which checks the values itself."""
    for name, field in Settings.model_fields.items():
        kind, default = _type(field.annotation), field.default
        extra: Any = field.json_schema_extra
        given: dict[str, Any] = {"help": field.description, "hidden": not extra["shown"]}
        if kind is Path:
            given |= {"parser": named_path, "metavar": "FOLDER"}
        names = (f"--{name.replace('_', '-')}",) if kind is bool else ()
        if isinstance(default, tuple):
            default = ",".join(default)
        optional = kind | None if default is None else kind
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[optional, typer.Option(*names, **given)],
        )


def _with_settings(command):
    """Decorator: replace ``**settings`` of a command by one option for each setting."""
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [*_settings_options(), *(p.replace(kind=p.KEYWORD_ONLY) for p in own)]
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


@guarded
@_with_settings
def verify(
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the memory it needs; do not run.")
    ] = False,
    memory_limit: Annotated[
        str | None,
        typer.Option(help="Refuse a run that needs more memory, such as 8G."),
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=named_path, metavar="FOLDER", help="Folder for the results.")
    ] = Path("results/verify"),
    plant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Planted errors: names, all or list.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="INCONCLUSIVE and NOT APPLICABLE count as failures.")
    ] = False,
    no_cache: NoCache = False,
    imports: Imports = None,
    debug: Debug = False,
    **settings: Any,
) -> int:
    """Check every claim on one network and data set.

    Exit status 0: no claim fails; 1: one does; 2: bad input; 3: none could be judged; 4: our fault.
    """
    values = settings | {
        "classes": _split(settings["classes"]) or None,
        "approximations": _split(settings["approximations"]),
        "laziness": _split(settings["laziness"]),
    }
    if plant == "list":
        return _list_planted()
    if explain:
        return _explain(values, memory_limit)
    return _verify(values, out, memory_limit, strict, no_cache, _split(plant))


def _list_planted() -> int:
    from ngd_theory import experiment

    output = Output(120)
    for error in experiment.PLANTED.values():
        where = f" ({', '.join(error.of)})" if error.of else ""
        output.print(f"{error.name:24}{error.meaning}{where}", soft_wrap=True)
    return Exit.HOLDS


def _explain(values: dict, memory_limit: str | None) -> int:
    from ngd_theory import experiment

    plan = MemoryPlan(experiment.parse(values))
    plan.show(Output(120))
    if memory_limit is not None:
        plan.require(memory_limit)
    return Exit.HOLDS


def _verify(
    values: dict,
    out: Path,
    memory_limit: str | None,
    strict: bool,
    no_cache: bool,
    plant: tuple[str, ...],
) -> int:
    import jax

    from ngd_theory import compilation_cache, experiment, report
    from ngd_theory.files import check_output_folder
    from ngd_theory.threads import limit_blas_threads

    compilation_cache.turn_off() if no_cache else compilation_cache.turn_on()
    settings = experiment.parse(values)
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

        found = experiment.verify(settings, tell, plant)
        tell("drawing")
        out.mkdir(parents=True, exist_ok=True)
        report.write_result(found, out / "result.json")
        report.draw_dynamics(found, out / "dynamics.png")
        report.draw_isotropy(found, out / "isotropy.png")
        report.draw_lazy(found, out / "lazy.png")

    wide = Output(140)
    report.print_report(found, wide)
    outcomes = [v.outcome for v in found.verdicts]
    kinds = [
        o for o in experiment.Outcome if o in outcomes or o is not experiment.Outcome.INCONCLUSIVE
    ]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in kinds)
    device = jax.devices()[0]
    wide.print(
        f"{counts} on {device.platform} ({device.device_kind}) in {found.seconds:.1f} s. "
        f"Results in {out}/: result.json, dynamics.png, isotropy.png, lazy.png",
        soft_wrap=True,
    )
    decided = [outcome.decided for outcome in outcomes]
    missed = any(n.applies and not n.noticed for n in found.noticed)
    # The default settings are chosen so that every claim applies.
    strict |= settings == experiment.Settings()
    return verdict_status(
        fails=experiment.Outcome.FAIL in outcomes or missed,
        judged=any(decided),
        open=not all(decided),
        strict=strict,
    )
