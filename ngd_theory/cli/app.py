"""The application and its subcommands."""

from typing import Annotated

import typer

import ngd_theory
from ngd_theory.cli.doctor import doctor
from ngd_theory.cli.report import report
from ngd_theory.cli.run import list_, run
from ngd_theory.cli.verify import verify

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Check the theory of natural gradient descent in wide neural networks.",
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Check the theory of natural gradient descent in wide neural networks."""
    if version:
        print(ngd_theory.__version__)
        raise typer.Exit


COMMANDS = {"verify": verify, "run": run, "report": report, "list": list_, "doctor": doctor}
for name, command in COMMANDS.items():
    app.command(name)(command)


def app_main() -> None:
    """Entry point of the console script."""
    app(prog_name="ngd-theory")
