"""``python -m benchmarks.very_wide``: two training steps of a very wide network, with each approximation.

Each runs in a process of its own, whose peak memory is printed beside that of `ngd_theory.theory.step_memory`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax

import ngd_theory as ngd
from ngd_theory.environment import environment
from ngd_theory.threads import limit_blas_threads

INPUTS, STEPS = 784, 2


def train(name: str, width: int, num_samples: int) -> dict:
    """Train a float32 perceptron of L = 3, C = 1 in this process."""
    limit_blas_threads()
    net = ngd.networks.mlp(INPUTS, [width, width], 1)
    keys = jax.random.split(jax.random.key(0), 3)
    params = net.init(keys[0])
    x = jax.random.normal(keys[1], (num_samples, INPUTS))
    y = jax.random.normal(keys[2], (num_samples, 1))
    approximation = ngd.fisher.by_name(name)
    # Gradient descent and entry-wise have no constant: any small step will do.
    rate = ngd.theory.isotropy_constant(approximation, net, num_samples) or 1e5
    times = [time.perf_counter()]
    trained = ngd.dynamics.train(
        *(net, params, x, y, approximation, 0.5 / rate, STEPS, 1e-4),
        on_step=lambda *_: times.append(time.perf_counter()),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "approximation": name,
        "losses": [float(v) for v in trained.losses],
        "seconds": times[2] - times[1],
        "peak_gb": stats.get("peak_bytes_in_use", peak * 1024) / 1e9,
        # Three copies of the parameters: the initial ones, those in training, a gradient. Steps overwrite theirs.
        "model_gb": ngd.theory.step_memory(approximation, net, num_samples).total / 1e9,
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.very_wide", description=__doc__)
    parser.add_argument("--width", type=int, default=16384)
    parser.add_argument("--num-samples", type=int, default=256)
    parser.add_argument("--approximations", default=",".join(ngd.fisher.APPROXIMATIONS))
    parser.add_argument("--out", type=Path, default=Path("results/bench-very-wide.json"))
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.approximations.split(",")
    if arguments.in_process:
        print(json.dumps(train(names[0], arguments.width, arguments.num_samples)))
        return
    rows = []
    print(f"{'approximation':18} {'seconds':>9} {'peak GB':>8} {'model GB':>9}  losses")
    for name in names:
        command = [sys.executable, "-m", "benchmarks.very_wide", "--in-process"]
        command += ["--approximations", name, "--width", str(arguments.width)]
        command += ["--num-samples", str(arguments.num_samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:18} failed: {done.stderr.splitlines()[-1:] or done.returncode}")
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        losses = ", ".join(f"{v:.3g}" for v in r["losses"])
        print(
            f"{name:18} {r['seconds']:9.2f} {r['peak_gb']:8.2f} {r['model_gb']:9.2f}  {losses}",
            flush=True,
        )
        rows.append(r)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
