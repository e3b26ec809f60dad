"""``python -m ngd_theory.cli``."""

from ngd_theory.cli.app import app_main

app_main()
