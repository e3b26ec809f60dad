"""result.json: everything, in valid JSON."""

import json
import math
import os
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory
from ngd_theory.experiment import Settings
from ngd_theory.report import write_result
from ngd_theory.report.result import to_dict


def strict(text):
    """Parse JSON as the standard has it: without NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def result(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("result") / "result.json"
    write_result(report, path)
    assert os.listdir(path.parent) == ["result.json"]
    return strict(path.read_text())


def test_every_part_is_there(result):
    assert set(result) == {
        "holds",
        "config",
        "environment",
        "left_out",
        "data",
        "network",
        "approximations",
        "claims",
        "planted",
        "references",
        "seconds",
    }


def test_the_config_can_be_run_again(result, report):
    assert Settings(**result["config"]) == report.settings
    assert result["config"]["seed"] == 0


def test_the_environment_names_versions_device_and_precision(result):
    environment = result["environment"]
    assert environment["device"] and environment["device_platform"] in ("cpu", "gpu", "tpu")
    assert environment["float"] == "float64"
    assert {"ngd-theory", "jax", "jaxlib", "numpy", "scipy"} <= set(environment["versions"])
    for name in ("jax", "numpy"):
        assert environment["versions"][name] == __import__(name).__version__
    assert environment["versions"]["ngd-theory"] in (None, ngd_theory.__version__)


def test_the_network_is_described(result):
    network = result["network"]
    assert network["depth"] == 3 and network["activation"] == "relu"
    assert network["num_parameters"] == 24 * 256 + 256 * 256 + 256
    assert len(network["layers"]) == 3


def test_an_approximation_has_what_the_issue_asks_for(result, report):
    assert list(result["approximations"]) == ["identity", "exact"]
    for name, found in result["approximations"].items():
        evidence = report.evidence[name]
        assert found["constant"]["measured"] == float(evidence.isotropy.constant)
        assert found["constant"]["predicted"] == evidence.constant
        assert found["dispersion"] == float(evidence.isotropy.dispersion)
        assert len(found["eigenvalues"]) == 12
        for kind in ("train_loss", "test_loss"):
            assert len(found[kind]["measured"]) == len(found[kind]["predicted"]) == 4
        np.testing.assert_array_equal(found["train_loss"]["measured"], evidence.training.losses)
        assert found["parameter_distance"]["measured"][0] == 0
        assert found["parameter_distance"]["predicted"] > 0
        assert np.shape(found["outputs"]["measured"]) == (12, 1)
        assert found["diverged"] is False
        assert found["seconds"] > 0


def test_losses_are_those_of_the_outputs(result, report):
    """The test loss is computed by the report itself: against numpy, from the raw outputs."""
    for name, found in result["approximations"].items():
        outputs = np.asarray(report.evidence[name].training.test_outputs)
        expected = np.sum((outputs - report.dataset.test_targets) ** 2, axis=(1, 2)) / (2 * 8)
        np.testing.assert_allclose(found["test_loss"]["measured"], expected, rtol=1e-12)


def test_every_verdict_is_there_with_its_words(result, report):
    assert len(result["claims"]) == len(report.verdicts)
    for found, verdict in zip(result["claims"], report.verdicts, strict=True):
        assert found["status"] in ("PASS", "FAIL", "NOT APPLICABLE")
        assert found["status"] == str(verdict.outcome)
        assert found["statement"] and found["source"] and found["why"]
        numbers = [found[key] for key in ("measured", "predicted", "tolerance")]
        if found["status"] == "NOT APPLICABLE":
            assert numbers == [None, None, None]
        else:
            assert all(isinstance(n, float) and math.isfinite(n) for n in numbers)


def test_numbers_that_are_not_finite_stay_valid_json(report, tmp_path):
    """Divergence is a result too."""
    evidence = report.evidence["exact"]
    losses = jnp.asarray([1.0, jnp.inf, jnp.nan])
    diverged = replace(evidence.training, losses=losses, diverged=True)
    broken = replace(
        report, evidence={**report.evidence, "exact": replace(evidence, training=diverged)}
    )
    path = tmp_path / "result.json"
    write_result(broken, path)
    found = strict(path.read_text())["approximations"]["exact"]
    assert found["diverged"] is True
    assert found["train_loss"]["measured"][0] == 1.0
    for value in found["train_loss"]["measured"][1:]:
        assert not isinstance(value, float)


def test_a_report_without_test_rows_has_no_test_loss(report):
    dataset = replace(
        report.dataset,
        test_inputs=report.dataset.test_inputs[:0],
        test_targets=report.dataset.test_targets[:0],
    )
    found = to_dict(replace(report, dataset=dataset))
    assert found["approximations"]["exact"]["test_loss"] is None


def test_a_failure_while_writing_keeps_the_old_result(report, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_text("old")

    def half(self, text, *arguments, **keywords):
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write_result(report, path)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_what_json_cannot_hold_leaves_no_file(report, tmp_path):
    data = replace(report.dataset, description={"source": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_result(replace(report, dataset=data), tmp_path / "result.json")
    assert os.listdir(tmp_path) == []
