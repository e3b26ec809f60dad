"""The application and its subcommands."""

import inspect
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

import ngd_theory
from ngd_theory.cli.cite import cite
from ngd_theory.cli.doctor import doctor
from ngd_theory.cli.report import report
from ngd_theory.cli.run import list_, run
from ngd_theory.cli.status import told
from ngd_theory.cli.verify import verify

#: Examples below the options of each help text; "" is that of the program itself.
EXAMPLES = {
    "": """
        ngd-theory verify                    every claim, on MNIST zeros and ones
        ngd-theory list                      the studies of studies/
        ngd-theory run studies/smoke.toml    one of them, into results/smoke
        ngd-theory report results/smoke      its figures and HTML page
    """,
    "verify": """
        ngd-theory verify --dataset digits --width 2048 --activation tanh
        ngd-theory verify --approximations kfac,unit-wise --step-scale 0.5
        ngd-theory verify --width 8192 --explain
    """,
    "run": """
        ngd-theory run studies/smoke.toml
        ngd-theory run studies/constants.toml --scheduler local:4
        ngd-theory run my.toml --out results/mine --scheduler tcp://HOST:8786
    """,
    "report": """
        ngd-theory report results/smoke
    """,
    "list": """
        ngd-theory list
        ngd-theory list my/studies
    """,
    "cite": """
        ngd-theory cite
        ngd-theory cite results/verify
    """,
    "doctor": """
        ngd-theory doctor
        ngd-theory doctor --width 8192 --num-train 500
    """,
}


def _examples(name: str) -> str:
    """The examples of a command as an epilog that is not wrapped."""
    return "\b\nExamples:\n" + "\n".join(
        f"  {line}" for line in inspect.cleandoc(EXAMPLES[name]).splitlines()
    )


app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Check the theory of natural gradient descent in wide neural networks.",
)


@app.callback(invoke_without_command=True, epilog=_examples(""))
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Check the theory of natural gradient descent in wide neural networks."""
    if version:
        print(ngd_theory.__version__)
        raise typer.Exit


COMMANDS = {
    "verify": verify,
    "run": run,
    "report": report,
    "list": list_,
    "cite": cite,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    app.command(name, epilog=_examples(name))(command)


def app_main() -> None:
    """Entry point of the console script. It handles the errors that `guarded` does not."""
    # Like standard error: a Greek letter that the terminal cannot show must not stop the program.
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="ngd-theory")
    except Exception as error:
        sys.exit(told(error))
