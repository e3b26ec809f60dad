from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory
from ngd_theory import experiment, sweeps
from ngd_theory.errors import InputError
from ngd_theory.experiment import Settings
from ngd_theory.experiment.columns import COLUMNS
from ngd_theory.experiment.evidence import LazyRun, sup_gap
from ngd_theory.experiment.experiment import Experiment
from ngd_theory.sweeps.theory_cells import MEASUREMENTS, TheoryCell

#: What a perceptron of plain steps cannot be measured for.
APART = ("layers", "batches")
EVERYTHING = tuple(name for name in MEASUREMENTS if name not in APART)


def rows_of(settings, measured):
    return TheoryCell(settings, measured=tuple(measured)).measure()


SETTINGS = Settings(
    dataset="gaussian",
    approximations=("exact",),
    num_train=5,
    num_test=3,
    input_dim=8,
    width=16,
    depth=2,
    step_scale=0.5,
    steps=2,
)


#: So that the exact method has a rival.
BOTH = SETTINGS.model_copy(update={"approximations": ("exact", "block-diagonal")})


@pytest.fixture(scope="module")
def all_rows():
    return rows_of(BOTH, EVERYTHING)


@pytest.fixture(scope="module")
def rows(all_rows):
    """A row a step."""
    return [row for row in all_rows if row["approximation"] == "exact" and "epsilon" not in row]


@pytest.fixture(scope="module")
def lazy_rows(all_rows):
    """Those of an epsilon."""
    return [row for row in all_rows if row["approximation"] == "exact" and "epsilon" in row]


def test_every_column_is_known_and_filled(rows, lazy_rows):
    assert [row["step"] for row in rows] == [0, 1, 2]
    there = {n: c for n, c in COLUMNS.items() if c.measured_by not in APART}
    for found, lazy in ((rows[-1], False), (lazy_rows[0], True)):
        own = {n: c for n, c in there.items() if c.lazy == lazy or (lazy and not c.measured_by)}
        assert set(found) == set(own)
        assert all(np.isfinite(found[n]) for n, c in own.items() if c.kind == "float64")


def test_there_is_a_row_an_epsilon_with_the_gap_of_its_run(rows, lazy_rows, monkeypatch):
    monkeypatch.setattr("ngd_theory.experiment.verification.judge", lambda evidence: ())
    e = experiment.verify(SETTINGS).evidence["exact"]
    assert [row["epsilon"] for row in lazy_rows] == [1e-6, 1e-4, 1e-2, 1.0]
    for row, run in zip(lazy_rows, (*reversed(e.lazy), e.plain), strict=True):
        scale = float(jnp.linalg.norm(run.training.outputs[0] - e.targets))
        gap = max(
            sup_gap(run.training.outputs, e.prediction.outputs, scale),
            sup_gap(run.training.test_outputs, e.prediction.test_outputs, scale * (3 / 5) ** 0.5),
        )
        assert row["epsilon_gap"] == pytest.approx(gap, rel=1e-6)
        assert row["epsilon_rounding"] == pytest.approx(e.rounding_floor(run.laziness))
        assert (row["step"], row["layer"], row["place"]) == (2, 0, "network")
    assert lazy_rows[0]["epsilon_gap"] == rows[-1]["lazy_gap"]
    assert lazy_rows[-1]["epsilon_gap"] == max(
        max(row["gap"] for row in rows), max(row["test_gap"] for row in rows)
    )


def test_a_run_that_was_broken_off_has_an_infinite_gap(monkeypatch):
    monkeypatch.setattr("ngd_theory.dynamics.train", _broken_off(ngd_theory.dynamics.train))
    settings = SETTINGS.model_copy(update={"steps": 1, "laziness": (0.1,)})
    found = [row for row in rows_of(settings, ("lazy",)) if "epsilon" in row]
    assert [row["epsilon"] for row in found] == [0.1, 1.0]
    assert found[0]["epsilon_gap"] == np.inf and np.isfinite(found[1]["epsilon_gap"])


def _broken_off(train):
    """Lazy runs without their last step."""

    def changed(*arguments, laziness=1.0, **keywords):
        found = train(*arguments, laziness=laziness, **keywords)
        return found if laziness == 1 else replace(found, outputs=found.outputs[:-1])

    return changed


def test_numbers_are_those_that_verify_finds(rows, monkeypatch):
    monkeypatch.setattr("ngd_theory.experiment.verification.judge", lambda evidence: ())
    evidence = experiment.verify(SETTINGS).evidence["exact"]
    last = rows[-1]
    assert last["constant"] == pytest.approx(float(evidence.isotropy.constant), rel=1e-12)
    assert last["step_size"] == evidence.step_size
    whole = evidence.residual_ratios(LazyRun(1.0, evidence.training))
    assert last["residual"] == pytest.approx(whole[-1], rel=1e-10)
    scale = float(jnp.linalg.norm(evidence.training.outputs[0] - evidence.targets))
    gap = sup_gap(evidence.training.outputs, evidence.prediction.outputs, scale)
    assert max(row["gap"] for row in rows) == pytest.approx(gap, rel=1e-10)
    assert last["movement"] * evidence.parameter_norm == pytest.approx(last["distance"])
    assert last["ntk_max"] / last["ntk_min"] == pytest.approx(evidence.ntk_condition, rel=1e-8)


def test_measuring_twice_gives_the_same_numbers(all_rows):
    assert rows_of(BOTH, EVERYTHING) == all_rows


def test_the_rival_ratio_is_that_of_the_distances_to_the_predictions(all_rows, monkeypatch):
    monkeypatch.setattr("ngd_theory.experiment.verification.judge", lambda evidence: ())
    found = experiment.verify(BOTH).evidence
    for name, rival in (("exact", "block-diagonal"), ("block-diagonal", "exact")):
        final = found[name].training.test_outputs[-1]
        own, other = (
            jnp.linalg.norm(final - found[n].prediction.test_outputs[-1]) for n in (name, rival)
        )
        (last,) = (r for r in all_rows if r["approximation"] == name and "rival_ratio" in r)
        assert last["rival_ratio"] == pytest.approx(float(own / other), rel=1e-8)


def relu_ntk(x1, x2):
    """Two-layer ReLU NTK with sigma_w^2 = 2, in closed form (Cho & Saul 2009)."""
    h = 2 * x1 @ x2.T / x1.shape[1]
    s = 2 * np.outer(np.linalg.norm(x1, axis=1), np.linalg.norm(x2, axis=1)) / x1.shape[1]
    angle = np.arccos(np.clip(h / s, -1, 1))
    last = s * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
    return last + h * (np.pi - angle) / np.pi


@pytest.mark.slow
def test_the_limit_is_the_closed_form_of_the_infinitely_wide_network(monkeypatch):
    settings = SETTINGS.model_copy(update={"step_scale": 1.0, "steps": 1, "width": 64})
    rows = rows_of(settings, ("limit",))
    monkeypatch.setattr("ngd_theory.experiment.verification.judge", lambda evidence: ())
    report = experiment.verify(settings)
    evidence, x, x_test = (
        report.evidence["exact"],
        report.dataset.inputs,
        report.dataset.test_inputs,
    )
    theta = relu_ntk(x, x)
    initial, final = (np.asarray(evidence.training.test_outputs[t]) for t in (0, 1))
    residual = np.asarray(evidence.training.outputs[0]) - evidence.targets
    expected = initial - relu_ntk(x_test, x) @ np.linalg.solve(theta, residual)
    gap = np.linalg.norm(final - expected) / np.linalg.norm(residual) * (5 / 3) ** 0.5
    assert rows[1]["limit_test_gap"] == pytest.approx(gap, rel=1e-5)  # damping 1e-8
    network = ngd_theory.networks.mlp(8, [64], 1)
    params = network.init(jax.random.key(0))
    finite = ngd_theory.kernels.ntk(ngd_theory.networks.linearize(network, params, jnp.asarray(x)))
    distance = np.linalg.norm(finite - theta) / np.linalg.norm(theta)
    assert rows[0]["kernel_distance"] == pytest.approx(distance, rel=1e-8)


def test_the_entry_wise_map_has_no_limit():
    settings = SETTINGS.model_copy(update={"approximations": ("entry-wise",), "steps": 1})
    (_, last) = rows_of(settings, ("limit",))
    assert last["kernel_distance"] > 0 and "limit_gap" not in last


def test_isotropy_alone_is_one_row_without_training():
    (row,) = rows_of(SETTINGS, ("isotropy",))
    assert row["step"] == 0 and "gap" not in row and row["dispersion"] < 1e-4


def test_a_broken_premise_is_marked_with_its_reason():
    settings = SETTINGS.model_copy(update={"approximations": ("kfac",), "input_dim": 3})
    (row,) = rows_of(settings, ("isotropy",))
    assert not row["applicable"] and "layer 1" in row["reason"]
    assert row["dispersion"] > 0.01


def test_cross_entropy_has_gaps_but_no_residual():
    changes = {"loss": "cross-entropy", "approximations": ("exact",), "steps": 1, "num_test": 0}
    rows = rows_of(SETTINGS.model_copy(update=changes), ("trajectory", "gap"))
    assert "residual" not in rows[1] and 0 < rows[1]["gap"] < 1


def test_the_wrong_precision_is_refused_with_the_mend():
    settings = SETTINGS.model_copy(update={"precision": "float32"})
    with pytest.raises(InputError, match=r"jax.config.update\('jax_enable_x64', False\)"):
        rows_of(settings, ("isotropy",))


@pytest.fixture
def begun(monkeypatch):
    """Settings of every experiment that was begun."""
    begin, found = Experiment.begin, []

    def count(settings, *args, **kwargs):
        found.append(settings)
        return begin(settings, *args, **kwargs)

    TheoryCell.kept.clear()
    monkeypatch.setattr(Experiment, "begin", count)
    yield found
    TheoryCell.kept.clear()


def numbers(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


AFTERWARDS = {
    "damping": 1e-2,
    "step_scale": 1.0,
    "steps": 3,
    "approximations": ("kfac",),
    "batch_size": 3,
    "momentum": 0.5,
    "batch_order": "independent",
    "momentum_kind": "spring",
    "laziness": (1e-3,),
}


@pytest.mark.parametrize("name", AFTERWARDS)
def test_what_comes_after_the_network_does_not_draw_it_again(begun, name):
    other = BOTH.model_copy(update={name: AFTERWARDS[name]})
    rows_of(BOTH, ["gap", "isotropy"])
    after_another = rows_of(other, ["gap", "isotropy"])
    assert len(begun) == 1
    TheoryCell.kept.clear()
    assert numbers(after_another) == numbers(rows_of(other, ["gap", "isotropy"]))
    assert len(begun) == 2


BEFOREHAND = {
    **{"width": 17, "depth": 3, "activation": "tanh", "weight_std": 1.0, "bias_std": 0.5},
    **{"seed": 1, "num_train": 6, "num_test": 4, "input_dim": 9, "output_dim": 2},
    **{"own_norms": True, "parameterization": "mup", "loss": "cross-entropy"},
}


@pytest.mark.parametrize("name", BEFOREHAND)
def test_another_network_or_other_data_are_drawn_again(begun, name):
    settings = BOTH.model_copy(update={"approximations": ("exact",), "output_dim": 3})
    for each in (settings, settings.model_copy(update={name: BEFOREHAND[name]})):
        rows_of(each, ["isotropy"])
    assert len(begun) == 2


def test_nothing_is_kept_after_a_run(begun, tmp_path):
    text = """
    title = "t"
    statement = "s"
    approximations = ["exact"]
    damping = [1e-8, 1e-4, 1e-2]
    measure = ["isotropy"]
    network = { depth = 2, width = 16 }
    data = { dataset = "gaussian", num_train = 4, num_test = 0, input_dim = 8 }
    grid = { seed = [0, 1] }
    """
    (tmp_path / "s.toml").write_text(text)
    assert sweeps.run(tmp_path / "s.toml", tmp_path / "out").computed == 6
    assert [settings.seed for settings in begun] == [0, 1]
    rows_of(begun[-1], ["isotropy"])
    assert len(begun) == 3


def test_inputs_may_keep_their_own_norms():
    # Layer 1 of K-FAC's outputs alone is diag(|a_n|^2): isotropic for inputs of one norm only.
    settings = SETTINGS.model_copy(update={"approximations": ("kfac-output",), "damping": 0.0})

    def first(settings):
        rows = rows_of(settings, ["isotropy", "layers"])
        return next(row["dispersion"] for row in rows if row.get("place") == "first")

    assert first(settings) < 1e-10
    assert first(settings.model_copy(update={"own_norms": True})) > 0.05
    with pytest.raises(InputError, match="one norm"):
        experiment.parse({"dataset": "gaussian", "forster": True, "own_norms": True})


def test_what_batches_leave_is_measured_beside_the_bound():
    changes = {"batch_size": 3, "batch_order": "independent", "steps": 20, "damping": 1e-10}
    settings = SETTINGS.model_copy(update={**changes, "approximations": ("exact", "identity")})

    def last(settings):
        rows = rows_of(settings, ["batches"])
        return {row["approximation"]: row for row in rows if row["step"] == 20}

    exact, descent = (last(settings)[name] for name in ("exact", "identity"))
    assert 0.5 < exact["whitened_contraction"] < 1
    assert exact["batch_excess"] == exact["whitened_contraction"] / exact["batch_bound"] - 1
    assert exact["batch_excess"] < 0.05
    # The bound is of exact alone.
    assert descent.get("batch_bound") is None and descent["whitened_contraction"] < 1
    full = last(settings.model_copy(update={"batch_size": None}))["exact"]
    assert full.get("batch_bound") is None and abs(full["whitened_contraction"] - 0.5) < 1e-3


def test_a_kernel_without_inverse_has_no_whitened_contraction():
    # A linear model of more samples than inputs.
    changes = {
        "width": 1,
        "depth": 1,
        "input_dim": 3,
        "batch_size": 2,
        "batch_order": "independent",
    }
    found = rows_of(SETTINGS.model_copy(update=changes), ["batches"])[-1]
    assert np.isnan(found["whitened_contraction"]) and np.isnan(found["batch_bound"])
    assert np.isnan(found["batch_excess"])
