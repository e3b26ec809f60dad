"""Names of all numbers that are measured for an approximation, for tables, reports and claims of studies."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ngd_theory.experiment.evidence import Evidence, LayerEvidence, LazyGap
from ngd_theory.experiment.gaps import residual_ratios

Others = Mapping[str, Evidence]


@dataclass(frozen=True)
class Column:
    """A number, or a word, of a piece of evidence.

    Attributes
    ----------
    kind : {"string", "bool", "int64", "float64"}
    meaning : str
    value : ``(evidence, all evidence of the experiment by approximation) -> value``
        One value, or one for each step; None if there is none.
    measured_by : str or None
        Measurement of a study that fills the column; without it the column is empty. None: always filled.
    last : bool
        Whether only the last step has a value.
    layered : bool
        Whether each layer has a value too. ``value`` then also takes a `LayerEvidence`.
    lazy : bool
        Whether only the rows of the lazy family have a value, one for each epsilon. ``value`` then takes a `LazyGap`.
    of_a_constant : bool
        Whether the column is empty if the theory states no constant.
    """

    kind: Literal["string", "bool", "int64", "float64"]
    meaning: str
    value: Callable[[Any, Others], Any] = lambda e, others: None
    measured_by: str | None = None
    last: bool = False
    layered: bool = False
    lazy: bool = False
    of_a_constant: bool = False


def _constant_error(e: Evidence | LayerEvidence, others: Others) -> float | None:
    if e.constant is None:
        return None
    return abs(float(e.isotropy.constant) / e.constant - 1) if e.constant else np.inf


def _diverged(e: Evidence, others: Others) -> np.ndarray:
    ends = np.zeros(e.training.num_steps + 1, bool)
    ends[-1] = e.training.diverged
    return ends


def _lazy(value: Callable[[Evidence], float | None]) -> Callable[[Evidence, Others], float | None]:
    """Value of the lazy family; NaN if a run is missing or incomplete, None if rounding hides the gap."""

    def found(e: Evidence, others: Others) -> float | None:
        whole = e.lazy and all(np.isfinite(e.lazy_gap(run)) for run in e.lazy)
        return value(e) if whole else np.nan

    return found


def _order(e: Evidence) -> float | None:
    found = e.gap_order()
    return None if found is None else found.slope


def _residual(of: str) -> Callable[[Evidence, Others], np.ndarray | None]:
    return lambda e, _: residual_ratios(getattr(e, of), e.targets) if e.loss == "mse" else None


def _rival_ratio(e: Evidence, others: Others) -> float | None:
    """Value of ``rival_ratio``; NaN if the run did not reach its last step."""
    runs = [o for o in others.values() if o.name != e.name]
    if not runs:
        return None
    if e.training.num_steps < e.prediction.num_steps:
        return np.nan
    final = np.asarray(e.training.test_outputs)[-1]
    own = np.linalg.norm(final - np.asarray(e.prediction.test_outputs)[-1])
    nearest = min(np.linalg.norm(final - np.asarray(o.prediction.test_outputs)[-1]) for o in runs)
    return float(own / nearest) if nearest > 0 else np.inf


def _over_descent(of: str, part: str, descent: str = "descent"):
    """A part of the converged risk, divided by that of gradient descent at the same inputs; NaN if that is 0."""

    def found(e: Evidence, others: Others) -> float | None:
        if e.generalisation is None:
            return None
        own, other = (getattr(getattr(e.generalisation, name), part) for name in (of, descent))
        return own / other if other > 0 else np.nan

    return found


def _change(of: str, place: int) -> Callable[[Evidence, Others], float | None]:
    """Change in the last hidden layer; NaN if the run did not reach its last step, None without a hidden layer."""

    def found(e: Evidence, others: Others) -> float | None:
        if e.network.depth == 1:
            return None
        if e.training.diverged or e.training.num_steps < e.prediction.num_steps:
            return np.nan
        return float(np.asarray(getattr(e.feature_changes, of))[place])

    return found


def _over_rivals(part: str):
    """A part of the risk with the pool's Fisher, divided by the least of the other approximations' parts."""

    def found(e: Evidence, others: Others) -> float | None:
        if e.generalisation is None:
            return None
        found = [o.generalisation for o in others.values() if o.name != e.name]
        rivals = [getattr(rival.population, part) for rival in found if rival is not None]
        # All rivals are needed, as one that was not measured may be the least.
        if not rivals or len(rivals) < len(found):
            return None
        least = min(rivals)
        return getattr(e.generalisation.population, part) / least if least > 0 else np.nan

    return found


def _converged(of: str, part: str):
    return lambda e, _: e.generalisation and getattr(getattr(e.generalisation, of), part)


def _distances(e: Evidence) -> np.ndarray:
    assert e.training.parameter_distances is not None
    return np.asarray(e.training.parameter_distances)


#: By name, in the order of the table.
COLUMNS: dict[str, Column] = {
    "approximation": Column("string", "public name", lambda e, _: e.name),
    "applicable": Column(
        "bool",
        "whether the theory's premises may hold at this grid point",
        lambda e, _: not e.broken_premises,
    ),
    "reason": Column(
        "string", "why not, or empty", lambda e, _: "; ".join(e.broken_premises.values())
    ),
    "step": Column(
        "int64", "t; updates made so far", lambda e, _: np.arange(e.training.num_steps + 1)
    ),
    "damping_used": Column(
        "float64",
        "rho that the approximation was given: `damping`, or what `Approximation.matched_damping` makes of it",
        lambda e, _: e.damping,
    ),
    "step_size": Column("float64", "eta", lambda e, _: e.step_size),
    "constant": Column(
        "float64",
        "alpha = tr K/(NC) as measured; tr(K Lambda)/rank Lambda under cross-entropy",
        lambda e, _: e.isotropy.constant,
        "isotropy",
        layered=True,
    ),
    "predicted_constant": Column(
        "float64",
        "alpha of the theory",
        lambda e, _: e.constant,
        "isotropy",
        layered=True,
        of_a_constant=True,
    ),
    "constant_from": Column(
        "string",
        "sizes: predicted before anything is drawn; ranks: follows from the ranks measured",
        lambda e, _: e.constant_from,
        "isotropy",
        layered=True,
        of_a_constant=True,
    ),
    "constant_error": Column(
        "float64",
        "abs(measured / predicted - 1)",
        _constant_error,
        "isotropy",
        layered=True,
        of_a_constant=True,
    ),
    "dispersion": Column(
        "float64",
        "||K - alpha I||_F / (alpha sqrt(NC)); of R^T K R where Lambda = R R^T is not 0, under cross-entropy",
        lambda e, _: e.isotropy.dispersion,
        "isotropy",
        layered=True,
    ),
    "min_eigenvalue": Column(
        "float64",
        "of the same map",
        lambda e, _: e.isotropy.min_eigenvalue,
        "isotropy",
        layered=True,
    ),
    "max_eigenvalue": Column(
        "float64",
        "of the same map",
        lambda e, _: e.isotropy.max_eigenvalue,
        "isotropy",
        layered=True,
    ),
    "residual": Column(
        "float64",
        "||f_t - y|| / ||f_0 - y||, trained (MSE)",
        _residual("training"),
        "trajectory",
    ),
    "predicted_residual": Column(
        "float64",
        "the same in function space (MSE)",
        _residual("prediction"),
        "trajectory",
    ),
    "train_loss": Column("float64", "trained", lambda e, _: e.losses("training"), "trajectory"),
    "predicted_train_loss": Column(
        "float64", "in function space", lambda e, _: e.losses("prediction"), "trajectory"
    ),
    "test_loss": Column(
        "float64", "trained", lambda e, _: e.losses("training", "test"), "trajectory"
    ),
    "predicted_test_loss": Column(
        "float64", "in function space", lambda e, _: e.losses("prediction", "test"), "trajectory"
    ),
    "diverged": Column(
        "bool", "training was stopped there: its loss grew without bound", _diverged
    ),
    "gap": Column(
        "float64",
        "||f_t - f_t^predicted||_F / scale; scale ||f_0 - y||_F under MSE",
        lambda e, _: e.gaps(),
        "gap",
    ),
    "test_gap": Column(
        "float64",
        "the same on the test set, per sample",
        lambda e, _: e.gaps(split="test"),
        "gap",
    ),
    "lazy_gap": Column(
        "float64",
        "the larger gap on both sets over all steps at the smallest epsilon of the lazy family",
        _lazy(lambda e: e.lazy_gap(e.laziest)),
        "lazy",
        last=True,
    ),
    "gap_order": Column(
        "float64",
        "slope of log(gap) over log(epsilon); a lower bound if rounding hides the smaller gap",
        _lazy(_order),
        "lazy",
        last=True,
    ),
    "correction": Column(
        "float64",
        "g_1: gap over epsilon at the smallest epsilon where rounding does not show",
        _lazy(lambda e: e.correction),
        "lazy",
        last=True,
    ),
    "epsilon": Column(
        "float64",
        "of the lazy family: the row is of this run; 1 is the network itself",
        lambda run, _: run.epsilon,
        "lazy",
        lazy=True,
    ),
    "epsilon_gap": Column(
        "float64",
        "the larger gap on both sets over all steps at this epsilon; infinite for an incomplete run",
        lambda run, _: run.gap,
        "lazy",
        lazy=True,
    ),
    "epsilon_rounding": Column(
        "float64",
        "largest gap that rounding can explain: a gap below it shows nothing",
        lambda run, _: run.rounding,
        "lazy",
        lazy=True,
    ),
    "rival_ratio": Column(
        "float64",
        "test_gap over the distance to the nearest prediction of another approximation, last step",
        _rival_ratio,
        "rivals",
        last=True,
    ),
    "movement": Column(
        "float64",
        "||theta_t - theta_0|| / ||theta_0||",
        lambda e, _: _distances(e) / e.parameter_norm,
        "movement",
    ),
    "distance": Column("float64", "||theta_t - theta_0||", lambda e, _: _distances(e), "movement"),
    "kernel_drift": Column(
        "float64",
        "||Theta_T - Theta_0||_F / ||Theta_0||_F, last step",
        lambda e, _: e.kernel_drift,
        "kernel-drift",
        last=True,
    ),
    "feature_change": Column(
        "float64",
        "rms(h_T - h_0) / rms(h_0) of what the last layer is given, over training samples and units, last step",
        _change("relative_features", -1),
        "features",
        last=True,
    ),
    "preactivation_change": Column(
        "float64",
        "rms(u_T - u_0) / rms(u_0) of the last hidden layer's pre-activations, likewise",
        _change("relative_preactivations", -2),
        "features",
        last=True,
    ),
    "kernel_distance": Column(
        "float64",
        "||Theta - Theta_inf||_F / ||Theta_inf||_F at initialisation",
        lambda e, _: e.kernel_distance,
        "limit",
    ),
    "limit_gap": Column(
        "float64",
        "gap to the infinite-width prediction from the same f_0",
        lambda e, _: e.gaps("limit"),
        "limit",
    ),
    "limit_test_gap": Column(
        "float64",
        "the same on the test set, per sample",
        lambda e, _: e.gaps("limit", "test"),
        "limit",
    ),
    "ntk_min": Column(
        "float64",
        "smallest eigenvalue of Theta at initialisation",
        lambda e, _: e.ntk_ends[0],
        "eigenvalues",
    ),
    "ntk_max": Column(
        "float64",
        "largest eigenvalue of Theta at initialisation",
        lambda e, _: e.ntk_ends[1],
        "eigenvalues",
    ),
    "whitened_contraction": Column(
        "float64",
        "factor of |Theta^(-1/2) (f - y)| in a predicted step, geometric mean",
        lambda e, _: e.whitened_contraction,
        "batches",
    ),
    "batch_bound": Column(
        "float64",
        "upper bound on that factor in quadratic mean, for exact with independent batches",
        lambda e, _: e.batch_bound,
        "batches",
    ),
    "batch_excess": Column(
        "float64",
        "whitened_contraction / batch_bound - 1",
        lambda e, _: e.batch_bound and e.whitened_contraction / e.batch_bound - 1,
        "batches",
    ),
    "label_variance": Column(
        "float64",
        "variance of converged outputs at unlabelled inputs over label noise of variance 1",
        _converged("own", "variance"),
        "generalisation",
    ),
    "label_fit": Column(
        "float64",
        "the same at the training inputs: 1 where the labels are fitted, noise and all",
        _converged("own", "fit"),
        "generalisation",
    ),
    "variance_over_descent": Column(
        "float64",
        "label_variance over that of gradient descent",
        _over_descent("own", "variance"),
        "generalisation",
    ),
    "bias_over_descent": Column(
        "float64",
        "converged bias at unlabelled inputs over gradient descent's: targets f_0 + J theta, theta of covariance I",
        _over_descent("own", "aligned"),
        "generalisation",
    ),
    "population_variance_over_descent": Column(
        "float64",
        "variance_over_descent with the Fisher of training and unlabelled inputs",
        _over_descent("population", "variance"),
        "generalisation",
    ),
    "population_bias_over_descent": Column(
        "float64",
        "bias_over_descent with that Fisher",
        _over_descent("population", "aligned"),
        "generalisation",
    ),
    "population_variance_over_rivals": Column(
        "float64",
        "variance at unlabelled inputs with that Fisher over the least of the study's other approximations with it",
        _over_rivals("variance"),
        "generalisation",
    ),
    "population_misaligned_over_descent": Column(
        "float64",
        "population_bias_over_descent for targets f_0 + J theta, theta of covariance (F + rho)^-1, F that exact Fisher",
        _over_descent("population", "misaligned"),
        "generalisation",
    ),
    "population_misaligned_over_rivals": Column(
        "float64",
        "the same bias, over the least of the study's other approximations in place of gradient descent",
        _over_rivals("misaligned"),
        "generalisation",
    ),
    "fresh_variance_over_descent": Column(
        "float64",
        "population_variance_over_descent at fresh test inputs, which are not in the pool of the Fisher",
        _over_descent("fresh", "variance", "fresh_descent"),
        "generalisation",
    ),
    "fresh_bias_over_descent": Column(
        "float64",
        "population_bias_over_descent at fresh test inputs",
        _over_descent("fresh", "aligned", "fresh_descent"),
        "generalisation",
    ),
    "place": Column(
        "string",
        "first, hidden (the layers between) or output: the row is of one layer; network: of all",
        lambda e, _: e.place,
        layered=True,
    ),
    "layer": Column("int64", "from 1; 0: the whole network", lambda e, _: e.layer, layered=True),
    "layer_name": Column(
        "string", "its name; empty: the whole network", lambda e, _: e.layer_name, layered=True
    ),
    "positions": Column(
        "int64", "T of the layer", lambda e, _: e.positions, "layers", layered=True
    ),
    "input_rank": Column(
        "int64", "of the (N T, P) matrix a", lambda e, _: e.input_rank, "layers", layered=True
    ),
    "sensitivity_rank": Column(
        "int64",
        "of the (N C T, M) matrix delta",
        lambda e, _: e.sensitivity_rank,
        "layers",
        layered=True,
    ),
    "full_rank": Column(
        "bool",
        "whether both are N T and N C T; of the network: of all its layers but the last",
        lambda e, _: e.full_rank,
        "layers",
        layered=True,
    ),
}


def rows(evidence: Evidence, others: Others, measured: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of the table: one for each step, then one for each layer and each epsilon if those are measured.

    Parameters
    ----------
    evidence : Evidence
    others : dict of str to Evidence
        All of the experiment, by approximation.
    measured : iterable of str
        Measurements, as in `Column.measured_by`.
    """
    wanted = {*measured, None}
    columns = {n: c for n, c in COLUMNS.items() if c.measured_by in wanted}
    length = evidence.training.num_steps + 1
    found: list[dict[str, Any]] = [{} for _ in range(length)]
    for name, column in columns.items():
        if column.lazy:
            continue
        value = column.value(evidence, others)
        steps = [value] * length if np.ndim(value) == 0 else list(value[:length])
        for step, one in enumerate(steps):
            if one is not None and (step == length - 1 or not column.last):
                found[step][name] = _plain(one)
    first, last = (_common(found[step]) for step in (0, -1))
    if "layers" in wanted:
        layered = {n: c for n, c in columns.items() if c.layered}
        found += [first | _values(layered, layer, others) for layer in evidence.layers]
    if "lazy" in wanted:
        lazy = {n: c for n, c in columns.items() if c.lazy}
        found += [last | _values(lazy, run, others) for run in evidence.lazy_gaps]
    return found


def _common(row: dict[str, Any]) -> dict[str, Any]:
    """The entries of a step's row that no measurement fills."""
    return {n: v for n, v in row.items() if COLUMNS[n].measured_by is None}


def _values(columns: Mapping[str, Column], piece: LayerEvidence | LazyGap, others: Others):
    found = {n: c.value(piece, others) for n, c in columns.items()}
    return {n: _plain(v) for n, v in found.items() if v is not None}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
