"""Measure one cell: the rows of every approximation on one network and data set."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory import data, dynamics, losses, networks, theory
from ngd_theory.claims import Settings
from ngd_theory.claims.evidence import residual_ratios
from ngd_theory.claims.experiment import (
    checked_step_size,
    judged_map,
    kernel_spectrum,
    largest_eigenvalue,
    make_network,
)
from ngd_theory.claims.experiment import load_data as load_data
from ngd_theory.claims.experiment import make_approximation as make_approximation
from ngd_theory.errors import SingularKernelError
from ngd_theory.fisher import Approximation
from ngd_theory.kernels import infinite, ntk
from ngd_theory.sweeps.cells import Cell
from ngd_theory.sweeps.premises import broken_premise

#: Measurements that need the network trained.
_TRAINED = frozenset(("trajectory", "gap", "rivals", "movement", "kernel-drift", "limit"))
#: Units a layer that the infinite-width unit-wise map is averaged over.
_LIMIT_UNITS = 20_000

_linearize = jax.jit(networks.linearize, static_argnums=0)
_kernel = jax.jit(lambda lin: ntk(lin) / lin.num_samples)


def measure_cell(cell: Cell) -> list[dict[str, Any]]:
    """Rows of a cell, one an approximation and step, keyed as `ngd_theory.sweeps.table.COLUMNS`.

    Network, data and step size are those of `ngd_theory.claims.verify` for the same settings. Without a
    trained measurement there is one row an approximation, at step 0.

    Raises
    ------
    InputError
        For data that cannot be had, or a precision other than JAX's.
    SingularKernelError
        When a solve breaks down.
    """
    settings = cell.settings
    dtype = cell.require_precision()
    dataset = _data(_data_settings(settings).model_dump_json())
    net = make_network(settings, dataset)
    params = net.init(jax.random.key(settings.seed))
    lin = _linearize(net, params, jnp.asarray(dataset.inputs, dtype))
    at = None
    if dataset.num_test and _TRAINED & set(cell.measure):
        at = _linearize(net, params, jnp.asarray(dataset.test_inputs, dtype))
    experiment = _Experiment(cell, dataset, net, params, lin, at)
    rows = [row for name in settings.chosen_approximations for row in experiment.rows(name)]
    if "rivals" in cell.measure:
        experiment.compare(rows)
    return rows


def _data_settings(settings: Settings) -> Settings:
    """The settings with everything that the data do not depend on at its default."""
    kept = ("dataset", "classes", "num_train", "num_test", "seed", "forster", "loss", "data_dir")
    return Settings(
        **{name: getattr(settings, name) for name in (*kept, "input_dim", "output_dim")}
    )


@lru_cache(maxsize=8)
def _data(settings: str) -> data.Dataset:
    return load_data(Settings.model_validate_json(settings))


class _Experiment:
    """What all approximations of a cell share."""

    def __init__(self, cell: Cell, dataset: data.Dataset, net, params, lin, at):
        self.cell, self.settings, self.wanted = cell, cell.settings, frozenset(cell.measure)
        self.dataset, self.net, self.params, self.lin, self.at = dataset, net, params, lin, at
        self.targets = jnp.asarray(dataset.targets, lin.outputs.dtype)
        self.kernel = np.asarray(_kernel(lin))
        #: Eigenvalues of the kernel; a network that is of no use is refused here.
        self.eigenvalues = kernel_spectrum(self.kernel)
        #: Final test outputs by approximation: trained, predicted.
        self.finals: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """One approximation's rows."""
        settings, lin = self.settings, self.lin
        approximation = make_approximation(name, settings.loss)
        damping = approximation.matched_damping(settings.damping)
        k = approximation.function_space_map(lin, damping)
        if not bool(jnp.isfinite(k).all()):
            raise SingularKernelError(
                f"{name}: the function-space map is not finite with damping {damping:g} in {k.dtype}: "
                "raise the damping, use float64, or damping 0 (pseudo-inverse)"
            )
        isotropy, _ = judged_map(k, lin.outputs, settings.loss)
        constant = theory.isotropy_constant(approximation, self.net, lin.num_samples)
        rate = largest_eigenvalue(k) if constant is None else constant
        step_size = checked_step_size(name, settings.step_scale, rate)
        broken = broken_premise(settings, name)
        common: dict[str, Any] = {
            "approximation": name,
            "applicable": broken is None,
            "reason": "" if broken is None else broken[1],
            "damping_used": damping,
            "step_size": step_size,
            "diverged": False,
        }
        if "isotropy" in self.wanted:
            common |= isotropy_columns(isotropy, constant)
        if "eigenvalues" in self.wanted:
            ends = self.eigenvalues[[0, -1]].tolist()
            common |= dict(zip(("ntk_min", "ntk_max"), ends, strict=True))
        if not self.wanted & _TRAINED:
            return [{**common, "step": 0}]
        steps = self._trained(approximation, k, step_size, damping)
        return [{**common, **step, "step": t} for t, step in enumerate(steps)]

    def _trained(
        self, approximation: Approximation, k, step_size: float, damping: float
    ) -> list[dict[str, Any]]:
        """Train and predict; the columns of every step."""
        predicted = self._predict(approximation, k, step_size, damping)
        x_test = None
        if self.at is not None:
            x_test = jnp.asarray(self.dataset.test_inputs, self.lin.outputs.dtype)
        trained = dynamics.train(
            self.net,
            self.params,
            jnp.asarray(self.dataset.inputs, self.lin.outputs.dtype),
            self.targets,
            approximation,
            step_size,
            self.settings.steps,
            damping,
            x_test,
            self.settings.loss,
        )
        length = trained.num_steps + 1
        columns: dict[str, Any] = {"diverged": [False] * (length - 1) + [trained.diverged]}
        if "trajectory" in self.wanted:
            columns |= self._trajectory_columns(trained, predicted)
        if "gap" in self.wanted:
            columns |= self._gap_columns(trained, predicted)
        if "rivals" in self.wanted and trained.num_steps == predicted.num_steps:
            final, expected = (np.asarray(t.test_outputs)[-1] for t in (trained, predicted))
            self.finals[approximation.name] = final, expected
        if "limit" in self.wanted:
            columns |= self._limit_columns(approximation, trained, step_size, damping)
        if "movement" in self.wanted:
            distances = np.asarray(trained.parameter_distances)
            norm = np.sqrt(sum(float(jnp.sum(p**2)) for p in jax.tree.leaves(self.params)))
            columns |= {"distance": distances, "movement": distances / norm}
        if "kernel-drift" in self.wanted:
            last = _linearize(self.net, trained.params, jnp.asarray(self.dataset.inputs, k.dtype))
            drift = np.linalg.norm(np.asarray(_kernel(last)) - self.kernel)
            unknown = [None] * (length - 1)
            columns |= {"kernel_drift": [*unknown, drift / np.linalg.norm(self.kernel)]}
        return [
            {name: _plain(values[t]) for name, values in columns.items() if t < len(values)}
            for t in range(length)
        ]

    def compare(self, rows: list[dict[str, Any]]) -> None:
        """Fill ``rival_ratio`` in the last row of every approximation that did not diverge."""
        last = {row["approximation"]: row for row in rows}
        for name, (final, predicted) in self.finals.items():
            others = [p for rival, (_, p) in self.finals.items() if rival != name]
            if others:
                nearest = min(float(np.linalg.norm(final - p)) for p in others)
                own = float(np.linalg.norm(final - predicted))
                last[name]["rival_ratio"] = own / nearest if nearest > 0 else np.inf

    def _limit_columns(
        self, approximation: Approximation, trained, step_size: float, damping: float
    ) -> dict[str, Any]:
        lin, dtype = self.lin, self.lin.outputs.dtype
        x = jnp.asarray(self.dataset.inputs, dtype)
        each = jnp.eye(lin.output_dim, dtype=dtype)
        limit = jnp.kron(infinite.ntk(self.net, x), each) / lin.num_samples
        distance = float(np.linalg.norm(self.kernel - limit) / np.linalg.norm(limit))
        columns: dict[str, Any] = {"kernel_distance": [distance] * (trained.num_steps + 1)}
        if not approximation.has_limit:
            return columns  # its map has no limit
        at_test = ()
        if self.at is not None:
            at_test = (jnp.asarray(self.dataset.test_inputs, dtype), self.at.outputs)
        predicted = dynamics.predict_limit(
            approximation,
            self.net,
            x,
            lin.outputs,
            self.targets,
            step_size,
            self.settings.steps,
            damping,
            *at_test,
            key=jax.random.key(self.settings.seed),
            num_units=_LIMIT_UNITS,
        )
        gaps = self._gap_columns(trained, predicted)
        return columns | {f"limit_{name}": values for name, values in gaps.items()}

    def _predict(self, approximation: Approximation, k, step_size: float, damping: float):
        steps, loss = self.settings.steps, self.settings.loss
        if loss != "mse":
            return dynamics.predict(
                approximation, self.lin, self.targets, step_size, steps, damping, self.at, loss
            )
        q, test = None, None
        if self.at is not None:
            q = approximation.function_space_map(self.lin, damping, self.at)
            test = self.at.outputs
        return dynamics.predict_from_maps(
            k, self.lin.outputs, self.targets, step_size, steps, q, test
        )

    def _trajectory_columns(self, trained, predicted) -> dict[str, Any]:
        columns = {
            "train_loss": np.asarray(trained.losses),
            "predicted_train_loss": np.asarray(predicted.losses),
        }
        if self.settings.loss == "mse":
            columns["residual"] = residual_ratios(trained, self.targets)
            columns["predicted_residual"] = residual_ratios(predicted, self.targets)
        if self.at is not None:
            columns["test_loss"] = self._test_losses(trained)
            columns["predicted_test_loss"] = self._test_losses(predicted)
        # What is not a number is no small residual: statistics leave NaN out.
        return {name: np.where(np.isnan(v), np.inf, v) for name, v in columns.items()}

    def _test_losses(self, trajectory) -> np.ndarray:
        objective = losses.by_name(self.settings.loss)
        targets = jnp.asarray(self.dataset.test_targets, self.lin.outputs.dtype)
        return np.asarray([objective.value(f, targets) for f in trajectory.test_outputs])

    def _gap_columns(self, trained, predicted) -> dict[str, Any]:
        start = np.asarray(self.lin.outputs)
        if self.settings.loss == "mse":
            scale = float(np.linalg.norm(start - np.asarray(self.targets)))
        else:  # the targets are at infinity: how far the prediction travels
            scale = float(_distances(predicted.outputs, start[None]).max())
        columns = {"gap": _distances(trained.outputs, predicted.outputs) / scale}
        if self.at is not None:
            test_scale = scale * (len(self.dataset.test_inputs) / len(start)) ** 0.5
            gaps = _distances(trained.test_outputs, predicted.test_outputs)
            columns["test_gap"] = gaps / test_scale
        return columns


def isotropy_columns(isotropy: theory.Isotropy, constant: float | None) -> dict[str, Any]:
    """The columns of a map's isotropy, beside the predicted constant if there is one."""
    measured = float(isotropy.constant)
    return {
        "constant": measured,
        "predicted_constant": constant,
        "constant_error": None if constant is None else abs(measured / constant - 1),
        "dispersion": float(isotropy.dispersion),
        "min_eigenvalue": float(isotropy.min_eigenvalue),
        "max_eigenvalue": float(isotropy.max_eigenvalue),
    }


def _distances(left, right) -> np.ndarray:
    """Frobenius distance at every step that the left has; the right may have one for all."""
    left = np.asarray(left)
    difference = left - np.asarray(right)[: len(left)]
    distances = np.linalg.norm(difference.reshape(len(left), -1), axis=1)
    # A distance that is not a number is no agreement.
    return np.where(np.isfinite(distances), distances, np.inf)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
