"""``python -m benchmarks.verdicts``: verify many settings. No claim of the theory may fail in any of them.

Prints the number of verdicts of each outcome for each setting, and then for each claim.
"""

import argparse
import sys
from collections import Counter
from itertools import product

import jax

from ngd_theory import compilation_cache, experiment
from ngd_theory.errors import NGDTheoryError
from ngd_theory.experiment import Outcome

#: Defaults of every setting. They are small, so that all settings together take minutes.
BASE = {"num_train": 20, "num_test": 20, "width": 256, "steps": 3}
GAUSSIAN = {"dataset": "gaussian", "input_dim": 32}


def settings() -> list[dict]:
    """Depths, activations, widths, dampings, step scales, sample sizes, classes, data sets, losses and seeds."""
    found: list[dict] = [{}]
    found += [
        {"depth": depth, "activation": name}
        for depth, name in product((1, 2, 4, 6), ("relu", "tanh"))
    ]
    found += [{"activation": name} for name in ("erf", "gelu", "identity")]
    found += [
        {"width": width, "activation": name}
        for width, name in product((16, 64, 512, 2048), ("relu", "tanh"))
    ]
    found += [
        {"damping": rho, "activation": name}
        for rho, name in product((0.0, 1e-12, 1e-5, 1e-3, 1e-1, 1.0), ("relu", "tanh"))
    ]
    found += [{"step_scale": scale} for scale in (0.01, 0.1, 1.0, 1.5, 1.9, 2.2)]
    found += [
        {"seed": seed, "activation": name} for seed, name in product(range(1, 6), ("relu", "gelu"))
    ]
    found += [
        {"num_train": n, "width": 64, "seed": seed} for n, seed in product((1, 2, 4), range(3))
    ]
    found += [{"num_train": 100, "width": 1024, "seed": seed} for seed in (1, 2)]
    found += [{**GAUSSIAN, "output_dim": c, "width": 512} for c in (3, 10)]
    found += [
        {**GAUSSIAN, "activation": name, "seed": seed}
        for name, seed in product(("relu", "tanh"), (0, 1))
    ]
    found += [
        {"dataset": "gaussian", "input_dim": 4, "activation": name} for name in ("relu", "tanh")
    ]
    found += [{"dataset": "digits"}, {"dataset": "digits", "activation": "tanh"}, {"bias_std": 0.3}]
    found += [
        {**GAUSSIAN, "input_dim": 120, "num_train": 100, "output_dim": 3, "depth": 5, "width": 512}
    ]
    found += [{"forster": True, "input_dim": 8}, {"precision": "float32", "damping": 1e-3}]
    found += [
        {**GAUSSIAN, "loss": "cross-entropy", "output_dim": 3, "damping": rho, "step_scale": scale}
        for rho, scale in product((1e-6, 1e-2), (0.2, 0.5))
    ]
    found += [
        {"loss": "cross-entropy", "damping": 1e-3, "activation": name} for name in ("relu", "tanh")
    ]
    found += [
        {
            "architecture": "cnn",
            "dataset": "gaussian",
            "image_size": 5,
            "width": 96,
            "num_train": 4,
            "num_test": 4,
            **more,
        }
        for more in ({}, {"activation": "tanh"}, {"readout": "pool"}, {"stride": 2})
    ]
    return found


def main() -> int:
    """Verify all settings; return 1 if a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="settings whose words hold this")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many at the start")
    given = parser.parse_args()
    compilation_cache.turn_on()
    claims: dict[str, Counter] = {}
    failures = 0
    for changes in settings()[given.skip :]:
        # A process can map only a limited number of compiled programs.
        jax.clear_caches()
        words = " ".join(f"{name}={value}" for name, value in changes.items()) or "default"
        if given.only not in words:
            continue
        jax.config.update("jax_enable_x64", changes.get("precision") != "float32")
        try:
            report = experiment.verify(experiment.parse({**BASE, **changes}))
        except NGDTheoryError as error:
            print(f"{words:60} refused: {error}", flush=True)
            continue
        counts = Counter(v.outcome for v in report.verdicts)
        print(f"{words:60} {', '.join(f'{counts[o]} {o}' for o in Outcome)}", flush=True)
        for v in report.verdicts:
            claims.setdefault(v.claim, Counter())[v.outcome] += 1
            if v.outcome is Outcome.FAIL:
                failures += 1
                print(
                    f"    {v.claim} {v.approximation}: {v.measured:.3g} {v.predicted:.3g} {v.tolerance:.3g} {v.why}",
                    flush=True,
                )
    for name, counts in claims.items():
        print(f"{name:20} {', '.join(f'{counts[o]} {o}' for o in Outcome)}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
