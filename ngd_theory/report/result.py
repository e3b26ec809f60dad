"""A verification run as JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ngd_theory.environment import environment
from ngd_theory.experiment import Noticed, Report, Verdict
from ngd_theory.files import write_json
from ngd_theory.references import of_verification

#: Runs of `Evidence`; "infinite" is null unless it was asked for.
_RUNS = {"measured": "training", "predicted": "prediction", "infinite": "limit"}


def write_result(report: Report, path: Path) -> None:
    """Write everything a run found, and what it ran on, to ``path``."""
    write_json(path, to_dict(report))


def to_dict(report: Report) -> dict[str, Any]:
    """Return the run as JSON-ready values; infinity becomes a string, NaN becomes null."""
    judged = {
        "config": report.settings.model_dump(mode="json"),
        "claims": [_verdict(v) for v in report.verdicts],
    }
    return _plain(
        {
            "holds": report.holds,
            "config": judged["config"],
            "environment": environment(),
            "left_out": report.settings.left_out,
            "data": {"name": report.dataset.name, **report.dataset.description},
            "network": {
                "depth": report.network.depth,
                "activation": report.network.activation,
                "num_parameters": report.network.num_parameters,
                "layers": [asdict(s) for s in report.network.layer_sizes],
            },
            "approximations": {name: _evidence(report, name) for name in report.evidence},
            "claims": judged["claims"],
            "planted": [_noticed(n) for n in report.noticed],
            "references": [r.key for r in of_verification(judged)],
            "seconds": report.seconds,
        }
    )


def _evidence(report: Report, name: str) -> dict[str, Any]:
    e = report.evidence[name]
    curves = {
        split: {key: e.losses(run, split) for key, run in _RUNS.items()}
        for split in ("training", "test")
    }
    return {
        "damping": e.damping,
        "step_size": e.step_size,
        "constant": {
            "predicted": e.constant,
            "from": e.constant_from,
            "measured": e.isotropy.constant,
        },
        "dispersion": e.isotropy.dispersion,
        "finite_width": {
            "gap": e.gap_of(e.training),
            "correction": e.correction,
            "gaps": {f"{run.laziness:g}": e.lazy_gap(run) for run in e.lazy},
        },
        "eigenvalues": e.spectrum,
        "train_loss": curves["training"],
        "test_loss": curves["test"] if report.dataset.num_test else None,
        "outputs": {"measured": e.training.outputs[-1], "predicted": e.prediction.outputs[-1]},
        "parameter_distance": {
            "measured": e.training.parameter_distances,
            "predicted": e.predicted_distance,
            "initial_norm": e.parameter_norm,
        },
        "diverged": e.training.diverged,
        "ntk_condition": e.ntk_condition,
        "premises": e.broken_premises,
        "conditions": [asdict(c) for c in e.conditions or ()],
        "seconds": e.seconds,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    """The fields by their names in the file, which calls the outcome a status."""
    values = asdict(verdict)
    return {"status": str(values.pop("outcome")), **values}


def _noticed(noticed: Noticed) -> dict[str, Any]:
    strongest = noticed.strongest
    found = {"claim": None, "approximation": None, "tolerances": None}
    if strongest is not None:
        found = {
            "claim": strongest.claim,
            "approximation": strongest.approximation,
            "tolerances": strongest.excess,
        }
    return {
        "name": noticed.planted.name,
        "meaning": noticed.planted.meaning,
        "applies": noticed.applies,
        "noticed": noticed.noticed,
        **found,
        "unnoticed_in": [name for name, v in noticed.verdicts.items() if v is None],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, jax.Array | np.ndarray):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value
