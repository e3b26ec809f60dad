"""Floor 7: the ``ngd-theory`` command; one file for each subcommand.

Nothing heavy is imported before a subcommand needs it, so that ``--help`` is quick.
"""

from ngd_theory.cli.app import app, app_main

__all__ = ["app", "app_main"]
