"""Layers as a measurement: what a file may say, its claims on made-up numbers, and one network measured."""

import jax
import numpy as np
import pandas as pd
import pytest

from ngd_theory import networks
from ngd_theory.errors import InputError
from ngd_theory.fisher import KFAC
from ngd_theory.report.sweep import write_report
from ngd_theory.sweeps import Outcome, load, run
from ngd_theory.sweeps.base import evaluate
from ngd_theory.sweeps.kinds import parse

CLAIM = {
    "statement": "isotropic",
    "of": "dispersion",
    "statistic": "max",
    "where": {"place": "hidden", "full_rank": True},
    "rule": "<= 0.01",
}
NETWORK = {"architecture": "cnn", "activation": "tanh", "depth": 3}
STUDY = {
    "title": "t",
    "statement": "s",
    "approximations": ["kfac"],
    "damping": 0.0,
    "measure": ["isotropy", "layers"],
    "network": NETWORK,
    "data": {"dataset": "gaussian", "num_test": 0, "image_size": 3, "num_train": 2},
    "grid": {"width": [8, 16], "seed": [0, 1, 2]},
    "claims": [CLAIM],
}


def where(**changes):
    return {**CLAIM, "where": {"place": "hidden", **changes}}


def rows(settings, hidden=1e-3):
    """A cell's rows with made-up numbers: of full rank from 16 channels on."""
    found = []
    for layer, place in ((0, "network"), (1, "first"), (2, "hidden"), (3, "output")):
        full = place == "hidden" and settings.width >= 16
        found.append(
            {
                **{"approximation": "kfac", "applicable": True, "reason": "", "step": 0},
                **{"damping_used": 0.0, "step_size": 1.0, "diverged": False},
                **{"layer": layer, "place": place, "full_rank": full, "constant": 2.0},
                **{"predicted_constant": 1.0, "constant_error": 1.0},
                **{"dispersion": hidden if full else 0.5, "min_eigenvalue": 1.0},
            }
        )
    return found


def frame(study, **numbers):
    return pd.concat(
        pd.DataFrame(rows(c.settings, **numbers)).assign(
            cell=c.id, seed=c.settings.seed, width=c.settings.width, epsilon=np.nan
        )
        for c in study.cells()
    )


def judged(claim, **numbers):
    study = parse({**STUDY, "claims": [claim]})
    (verdict,) = evaluate(study, frame(study, **numbers))
    return verdict


def test_a_claim_is_about_the_rows_of_its_ranks_places_and_settings():
    verdict = judged(CLAIM)
    assert verdict.outcome is Outcome.PASS and verdict.estimate.value == pytest.approx(1e-3)
    assert judged(CLAIM, hidden=0.1).outcome is Outcome.FAIL
    assert judged(where(width=8)).estimate.value == pytest.approx(0.5)
    assert judged(where(width=8, full_rank=True)).outcome is Outcome.NOT_APPLICABLE
    # Without a place it is about the network.
    assert judged({**CLAIM, "where": {}}).estimate.value == pytest.approx(0.5)


def test_a_number_that_is_missing_is_not_passed_over():
    study = parse(STUDY)
    found = frame(study)
    found.loc[(found["seed"] == 1) & (found["place"] == "hidden"), "dispersion"] = float("nan")
    (verdict,) = evaluate(study, found)
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_unfinished_networks_leave_a_claim_open():
    study = parse(STUDY)
    (verdict,) = evaluate(study, frame(study).query("width == 8"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.why == "3 of the 6 cells are missing: 3 not finished"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "layers"}, ['measure = ["isotropy", "layers"]', "width for channels"]),
        ({"approximations": ["exact"]}, ["exact", "couples the layers"]),
        (
            {
                "network": {**NETWORK, "padding": "valid"},
                "data": {**STUDY["data"], "image_size": 2},
            },
            ["3 x 3", "2 x 2"],
        ),
        ({"data": {"dataset": "gaussian"}}, ["needs image_size"]),
        ({"data": {**STUDY["data"], "input_dim": 5}}, ["input_dim is 5", "27 numbers"]),
        ({"data": {"dataset": "mnist", "input_dim": 5}}, ["not principal components"]),
        ({"network": {**NETWORK, "depth": 1}}, ["depth 2"]),
        ({"measure": ["isotropy"]}, ["'layers' in measure"]),
        ({"claims": [{**CLAIM, "of": "gap"}], "measure": ["layers", "gap"]}, ["of the network"]),
        ({"claims": [where(channels=3)]}, ["channels", "width"]),
        ({"claims": [where(layer_name="q_7")]}, ["q_7", "layer_name"]),
        ({"approximations": ["kfac", "exact"]}, ["exact", "couples the layers", "approximations"]),
        ({"claims": [where(width=9)]}, ["where.width", "8, 16"]),
        ({"claims": [{**CLAIM, "where": {"place": "middle"}}]}, ["middle", "hidden"]),
        ({"claims": [where(width=[8, 16])]}, ["where.width"]),
        ({"claims": [where(full_rank="true")]}, ["full_rank", "true or false"]),
        (
            {"approximations": ["unit-wise"], "network": {**NETWORK, "sharing": "reduce"}},
            ["unit-wise", "sharing"],
        ),
        ({"network": {"activation": "tanh", "sharing": "reduce"}}, ["sharing", "mlp"]),
    ],
)
def test_what_cannot_be_is_refused_in_words(changes, words):
    with pytest.raises(InputError) as caught:
        parse({**STUDY, **changes})
    for word in words:
        assert word in str(caught.value)


TOKENS = {"architecture": "recurrent", "activation": "tanh", "depth": 3, "weight_std": 1.0}


def test_layers_are_told_apart_by_name_and_only_where_the_map_is_their_sum(tmp_path):
    """The hidden state begins at 0: rank N(T-1), alpha_l = N T (T-1). Some cells leave the number of tokens out."""
    of_hidden = {
        **{"statement": "N T (T-1)", "of": "constant", "statistic": "mean"},
        **{"approximations": ["kfac"], "where": {"layer_name": "hidden", "tokens": 2}},
    }
    exact = {"statement": "1", "approximations": ["exact"], "of": "constant", "statistic": "mean"}
    study = parse(
        {
            **STUDY,
            "approximations": ["kfac", "exact"],
            "network": {**TOKENS, "width": 16},
            "data": {"dataset": "gaussian", "input_dim": 16, "num_train": 2, "num_test": 0},
            "grid": {"tokens": [2, 4], "seed": [0, 1, 2]},
            "claims": [
                {**of_hidden, "rule": "in [3.999, 4.001]"},
                {**of_hidden, "rule": "in [7.999, 8.001]", "expect": "FAIL"},
                {**exact, "rule": "in [0.999, 1.001]", "where": {"place": "network"}},
            ],
        }
    )
    assert run(study, tmp_path).holds
    table = load(tmp_path)
    layers = table[table["layer"] > 0]
    assert set(layers["approximation"]) == {"kfac"}
    assert set(layers["layer_name"]) == {"in", "hidden", "out"}
    assert set(table["constant_from"].dropna()) == {"ranks"}
    assert set(table["tokens"]) == {2, 4}
    # The page names what varies.
    page = write_report(tmp_path)[-1].read_text(encoding="utf-8")
    assert "layer_name = hidden" in page and "tokens" in page


def one(**grid):
    (cell,) = parse({**STUDY, "grid": {"seed": [0], **grid}, "claims": []}).cells()
    return cell


def test_a_network_is_measured():
    """Full ranks in layer 2 at 48 channels, N T = 18; the first layer has patches of 27 numbers for 18 rows."""
    network, first, hidden, output = one(width=[48]).measure()
    assert [row["place"] for row in (network, first, hidden, output)] == [
        *("network", "first", "hidden", "output")
    ]
    assert hidden["full_rank"] and hidden["dispersion"] < 1e-9
    assert hidden["constant"] == pytest.approx(2 * 9**2)
    assert first["input_rank"] == first["sensitivity_rank"] == 18
    assert output["constant"] == pytest.approx(1)
    total = first["constant"] + hidden["constant"] + output["constant"]
    assert network["constant"] == pytest.approx(total)
    assert network["full_rank"] is (first["full_rank"] and hidden["full_rank"])


def test_where_nothing_is_predicted_no_error_is():
    network = {**NETWORK, "sharing": "reduce"}
    study = parse({**STUDY, "network": network, "grid": {"width": [5]}, "claims": []})
    rows = study.cells()[0].measure()
    assert all("constant_error" not in row for row in rows)
    lin = networks.linearize(
        net := networks.cnn((3, 3, 3), [5, 5], 1, activation="tanh"),
        net.init(jax.random.key(0)),
        jax.numpy.ones((2, 3, 3, 3)),
    )
    assert len(KFAC(sharing="reduce").layer_maps(lin, 0.0)) == len(rows) - 1


def test_a_perceptron_has_layers_too(tmp_path):
    values = {**STUDY, "network": {"width": 16}, "approximations": ["kfac", "block-diagonal"]}
    values["data"] = {"dataset": "gaussian", "num_train": 3, "num_test": 0, "input_dim": 8}
    study = parse({**values, "grid": {"seed": [0]}, "claims": []})
    assert not run(study, tmp_path).failures
    table = load(tmp_path)
    assert len(table) == 2 * 4
    block = table[table["approximation"] == "block-diagonal"]
    np.testing.assert_allclose(block[block["layer"] > 0]["constant"], 1, rtol=1e-6)


def test_the_seeds_of_a_network_share_their_programs(caplog):
    grid = {"width": [5], "seed": [0, 1]}
    cells = parse({**STUDY, "grid": grid, "claims": []}).cells()

    def programs(cell):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            cell.measure()
        return sum("Finished XLA compilation" in message for message in caplog.messages)

    assert programs(cells[0]) > 0
    assert programs(cells[1]) == 0


def test_a_study_is_stored_and_reported(tmp_path):
    summary = run(parse(STUDY), tmp_path, measure=lambda cell: rows(cell.settings))
    assert summary.holds, summary
    paths = write_report(tmp_path)
    (figure,) = (tmp_path / "figures").glob("claim-1-*.png")
    assert figure.stat().st_size > 5000
    assert "place = hidden" in paths[-1].read_text(encoding="utf-8")
