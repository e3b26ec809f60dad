"""Under cross-entropy: the constant shown is what the theory's is of, and what does not run is named."""

import io

import numpy as np
import pytest
from rich.console import Console

import ngd_theory as ngd
from ngd_theory import experiment, fisher
from ngd_theory.errors import SingularKernelError
from ngd_theory.experiment.spectra import judged_map
from ngd_theory.report import print_report
from ngd_theory.report.result import to_dict
from ngd_theory.sweeps.theory_cells import TheoryCell

SETTINGS = experiment.parse(
    {"dataset": "gaussian", "input_dim": 24, "num_train": 8, "num_test": 0, "width": 256}
    | {"steps": 1, "output_dim": 3, "loss": "cross-entropy", "step_scale": 0.5, "damping": 1e-9}
)


@pytest.fixture(scope="module")
def report():
    return experiment.verify(SETTINGS)


def softmax_fisher(outputs):
    """Lambda, block by block, of the outputs (N, C)."""
    n, c = outputs.shape
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    whole = np.zeros((n * c, n * c))
    for i in range(n):
        block = slice(i * c, (i + 1) * c)
        whole[block, block] = np.diag(p[i]) - np.outer(p[i], p[i])
    return whole


@pytest.mark.parametrize("name, alpha", [("exact", 1.0), ("block-diagonal", 3.0)])
def test_the_constant_is_the_trace_with_the_fisher_over_its_rank(report, name, alpha):
    evidence = report.evidence[name]
    assert evidence.constant == alpha
    assert float(evidence.isotropy.constant) == pytest.approx(alpha, rel=1e-4)
    assert float(evidence.isotropy.dispersion) < 1e-4
    # K itself grows as 1/rho in the directions that softmax does not see.
    assert evidence.spectrum.mean() > 1e3


def test_it_is_that_of_a_map_made_of_numbers():
    rng = np.random.default_rng(0)
    n, c = 5, 3
    outputs = rng.normal(size=(n, c))
    root = rng.normal(size=(n * c, n * c))
    k, fisher_ = root @ root.T, softmax_fisher(outputs)
    found, seen = judged_map(k, outputs, "cross-entropy")
    eigenvalues = np.sort(np.linalg.eigvals(k @ fisher_).real)[-n * (c - 1) :]
    assert float(found.constant) == pytest.approx(np.trace(k @ fisher_) / (n * (c - 1)))
    assert float(found.dispersion) == pytest.approx(eigenvalues.std() / eigenvalues.mean())
    assert float(found.min_eigenvalue) == pytest.approx(eigenvalues[0])
    assert float(found.max_eigenvalue) == pytest.approx(eigenvalues[-1])
    assert np.trace(seen) == pytest.approx(np.trace(k @ fisher_))


def test_under_mse_it_is_that_of_the_map_itself():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    k = root @ root.T
    found, seen = judged_map(k, rng.normal(size=(6, 1)), "mse")
    assert float(found.constant) == pytest.approx(np.trace(k) / 6)
    np.testing.assert_array_equal(seen, k)


def test_no_claim_fails_and_the_recursion_is_followed(report):
    found = {(v.claim, v.approximation): v.outcome.name for v in report.verdicts}
    assert "FAIL" not in found.values()
    for name in ("identity", "exact"):
        assert found["lazy-limit", name] == found["damped-map", name] == "PASS"


def test_a_network_that_is_certain_of_every_sample_has_no_constant():
    outputs = np.array([[1e4, 0.0], [0.0, 1e4]])
    with pytest.raises(SingularKernelError, match="certain of every sample"):
        judged_map(np.eye(4), outputs, "cross-entropy")


def test_a_study_has_the_same_numbers(report):
    settings = SETTINGS.model_copy(update={"approximations": ("exact",)})
    (row,) = TheoryCell(settings, measured=("isotropy",)).measure()
    assert row["constant"] == pytest.approx(float(report.evidence["exact"].isotropy.constant))
    assert row["constant_error"] < 1e-4


def test_what_does_not_run_is_named_with_the_reason(report):
    assert set(report.evidence) == {"identity", "exact", "block-diagonal"}
    missing = set(fisher.APPROXIMATIONS) - set(report.evidence)
    text = io.StringIO()
    print_report(report, Console(file=text, width=140))
    words = " ".join(text.getvalue().split())
    legend = words[words.index("Not run") :]
    assert "no tolerance is derived" in legend
    for name in missing:
        assert name in legend
    assert set(to_dict(report)["left_out"]) == missing
    assert "tr KΛ/rank Λ" in words


def test_under_mse_only_what_was_meant_is_left_out():
    left_out = experiment.Settings().left_out
    family = {"kfac-input", "kfac-output", "ekfac", "shampoo"}
    assert set(left_out) == {"kfac-tridiagonal", "quasi-diagonal", *family}
    assert set(experiment.Settings().chosen_approximations) == set(ngd.fisher.APPROXIMATIONS) - set(
        left_out
    )
    assert experiment.Settings(approximations=("exact",)).left_out == {}
