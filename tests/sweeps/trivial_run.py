"""A sweep with made-up numbers: `measure` for tests in process, and a script for tests that kill it."""

import sys
import time


def measure(cell):
    """Rows that the cell's identity determines; a gap that falls as width^-1/2 times a seeded factor."""
    factor = 1 + int(cell.id[:8], 16) / 2**40
    settings = cell.settings
    return [
        {
            "approximation": name,
            "applicable": True,
            "reason": "",
            "step": step,
            "gap": factor * settings.width**-0.5 * step,
            "residual": 0.5**step,
        }
        for name in settings.chosen_approximations
        for step in range(3)
    ]


def slow_measure(cell):
    time.sleep(0.02)
    return measure(cell)


if __name__ == "__main__":
    from ngd_theory import sweeps

    sweeps.run(sys.argv[1], sys.argv[2], measure=slow_measure)
