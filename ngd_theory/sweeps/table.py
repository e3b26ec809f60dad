"""The columns of the tidy table: one row a cell, approximation and step."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from ngd_theory.claims import Settings
from ngd_theory.errors import MissingDependencyError


@dataclass(frozen=True)
class Column:
    """A measured column.

    Attributes
    ----------
    kind : {"string", "bool", "int64", "float64"}
    meaning : str
    measured_by : str or None
        The measurement that fills it; empty (NaN) without. None: always there.
    """

    kind: Literal["string", "bool", "int64", "float64"]
    meaning: str
    measured_by: str | None = None


def _float(meaning: str, measured_by: str | None = None) -> Column:
    return Column("float64", meaning, measured_by)


COLUMNS: dict[str, Column] = {
    "approximation": Column("string", "public name"),
    "applicable": Column("bool", "whether the theory's premises may hold at this grid point"),
    "reason": Column("string", "why not, or empty"),
    "step": Column("int64", "t; updates made so far"),
    "damping_used": _float(
        "rho that the approximation was given: `damping`, or what `Approximation.matched_damping` makes of it"
    ),
    "step_size": _float("eta"),
    "constant": _float(
        "alpha = tr K/(NC) as measured; tr(K Lambda)/rank Lambda under cross-entropy", "isotropy"
    ),
    "predicted_constant": _float("alpha of the theory", "isotropy"),
    "constant_error": _float("abs(measured / predicted - 1)", "isotropy"),
    "dispersion": _float(
        "||K - alpha I||_F / (alpha sqrt(NC)); of R^T K R where Lambda = R R^T is not 0, under cross-entropy",
        "isotropy",
    ),
    "min_eigenvalue": _float("of the same map", "isotropy"),
    "max_eigenvalue": _float("of the same map", "isotropy"),
    "residual": _float("||f_t - y|| / ||f_0 - y||, trained (MSE)", "trajectory"),
    "predicted_residual": _float("the same in function space (MSE)", "trajectory"),
    "train_loss": _float("trained", "trajectory"),
    "predicted_train_loss": _float("in function space", "trajectory"),
    "test_loss": _float("trained", "trajectory"),
    "predicted_test_loss": _float("in function space", "trajectory"),
    "diverged": Column("bool", "training was stopped there: its loss grew without bound"),
    "gap": _float("||f_t - f_t^predicted||_F / scale; scale ||f_0 - y||_F under MSE", "gap"),
    "test_gap": _float("the same on the test set, per sample", "gap"),
    "rival_ratio": _float(
        "test_gap over the distance to the nearest prediction of another approximation, last step",
        "rivals",
    ),
    "movement": _float("||theta_t - theta_0|| / ||theta_0||", "movement"),
    "distance": _float("||theta_t - theta_0||", "movement"),
    "kernel_drift": _float("||Theta_T - Theta_0||_F / ||Theta_0||_F, last step", "kernel-drift"),
    "kernel_distance": _float(
        "||Theta - Theta_inf||_F / ||Theta_inf||_F at initialisation", "limit"
    ),
    "limit_gap": _float("gap to the infinite-width prediction from the same f_0", "limit"),
    "limit_test_gap": _float("the same on the test set, per sample", "limit"),
    "ntk_min": _float("smallest eigenvalue of Theta at initialisation", "eigenvalues"),
    "ntk_max": _float("largest eigenvalue of Theta at initialisation", "eigenvalues"),
}

#: Settings that are columns too.
CONFIG_COLUMNS: tuple[str, ...] = tuple(
    name for name in Settings.model_fields if name not in ("approximations", "data_dir", "kernel")
)


def pyarrow() -> Any:
    """Import pyarrow, with its Parquet module, at first use.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingDependencyError(
            f"sweeps store their results with pyarrow, which cannot be imported ({error}): "
            "pip install pyarrow"
        ) from error


def schema(columns: Mapping[str, Column]) -> Any:
    """The pyarrow schema of measured columns."""
    arrow = pyarrow()
    return arrow.schema([(n, arrow.type_for_alias(c.kind)) for n, c in columns.items()])


def config_row(settings: dict[str, Any]) -> dict[str, Any]:
    """`CONFIG_COLUMNS` of a stored cell; classes joined by commas."""
    classes = settings["classes"]
    joined = None if classes is None else ",".join(classes)
    return {name: settings[name] for name in CONFIG_COLUMNS} | {"classes": joined}
