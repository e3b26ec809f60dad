"""Layers studies: what a file may say, its claims on made-up numbers, and one network measured."""

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

from ngd_theory.errors import InputError, SingularKernelError
from ngd_theory.fisher import KFAC
from ngd_theory.report.sweep import write_report
from ngd_theory.sweeps import Outcome, run
from ngd_theory.sweeps.kinds import evaluate, parse
from ngd_theory.sweeps.layers import measure_cell

CLAIM = {
    "statement": "isotropic",
    "of": "dispersion",
    "statistic": "max",
    "places": ["hidden"],
    "where": {"full_rank": True},
    "rule": "<= 0.01",
}
STUDY = {
    "kind": "layers",
    "title": "t",
    "statement": "s",
    "channels": [8, 16],
    "image_size": 3,
    "num_samples": 2,
    "seeds": [0, 1, 2],
    "claims": [CLAIM],
}


def rows(settings, hidden=1e-3):
    """A cell's rows with made-up numbers: of full rank from 16 channels on."""
    found = []
    for layer, place in ((1, "first"), (2, "hidden"), (3, "output"), (0, "network")):
        full = place == "hidden" and settings.channels >= 16
        found.append(
            {
                "approximation": "kfac",
                "layer": layer,
                "place": place,
                "positions": 9,
                "input_rank": 9,
                "sensitivity_rank": 9,
                "full_rank": full,
                "constant": 2.0,
                "predicted_constant": 1.0,
                "constant_error": 1.0,
                "dispersion": hidden if full else 0.5,
                "min_eigenvalue": 1.0,
                "max_eigenvalue": 3.0,
            }
        )
    return found


def frame(study, **numbers):
    return pd.concat(
        pd.DataFrame(rows(c.settings, **numbers)).assign(
            cell=c.id, seed=c.settings.seed, channels=c.settings.channels, image_size=3
        )
        for c in study.cells()
    )


def test_a_claim_is_about_the_rows_of_its_ranks_places_and_settings():
    study = parse(STUDY)
    (verdict,) = evaluate(study, frame(study))
    assert verdict.outcome is Outcome.PASS and verdict.estimate.value == pytest.approx(1e-3)
    (verdict,) = evaluate(study, frame(study, hidden=0.1))
    assert verdict.outcome is Outcome.FAIL
    low = parse({**STUDY, "claims": [{**CLAIM, "where": {"channels": 8}}]})
    (verdict,) = evaluate(low, frame(low))
    assert verdict.estimate.value == pytest.approx(0.5)
    none = parse({**STUDY, "claims": [{**CLAIM, "where": {"channels": 8, "full_rank": True}}]})
    assert evaluate(none, frame(none))[0].outcome is Outcome.NOT_APPLICABLE


def test_a_number_that_is_missing_is_not_passed_over():
    study = parse(STUDY)
    found = frame(study)
    found.loc[(found["seed"] == 1) & (found["place"] == "hidden"), "dispersion"] = float("nan")
    (verdict,) = evaluate(study, found)
    assert verdict.outcome is not Outcome.PASS


def test_a_map_that_is_not_finite_is_an_error(monkeypatch):
    nothing = jnp.full((2, 2), jnp.nan)
    monkeypatch.setattr(KFAC, "layer_maps", lambda *_: (nothing, nothing, nothing))
    cell = parse({**STUDY, "seeds": [0], "claims": []}).cells()[0]
    with pytest.raises(SingularKernelError, match="layer 1: the map is not finite"):
        measure_cell(cell)


def test_unfinished_networks_leave_a_claim_open():
    study = parse(STUDY)
    (verdict,) = evaluate(study, frame(study).query("channels == 8"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "3 of the 6 networks" in verdict.why


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"approximations": ["exact"]}, ["exact", "couples the layers"]),
        ({"image_size": [2], "padding": "valid"}, ["3 x 3", "2 x 2"]),
        ({"channels": [8, 8]}, ["twice"]),
        ({"channels": []}, ["channels"]),
        ({"claims": [{**CLAIM, "where": {"width": 3}}]}, ["width", "channels"]),
        ({"claims": [{**CLAIM, "where": {"channels": 9}}]}, ["where.channels", "8, 16"]),
        ({"claims": [{**CLAIM, "places": ["middle"]}]}, ["middle", "hidden"]),
        ({"claims": [{**CLAIM, "where": {"channels": [8, 16]}}]}, ["where.channels"]),
        ({"claims": [{**CLAIM, "where": {"full_rank": "true"}}]}, ["full_rank", "true or false"]),
        ({"approximations": ["unit-wise"], "sharing": "reduce"}, ["unit-wise", "sharing"]),
        (
            {"claims": [{**CLAIM, "of": "constant_error"}], "sharing": "reduce"},
            ["no constant is predicted", "dispersion"],
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(changes, words):
    with pytest.raises(InputError) as caught:
        parse({**STUDY, **changes})
    for word in words:
        assert word in str(caught.value)


def test_a_network_is_measured():
    """Full ranks in layer 2 at 48 channels, N T = 18; the first layer has patches of 27 numbers for 18 rows."""
    cell = parse({**STUDY, "channels": 48, "seeds": [0], "claims": []}).cells()[0]
    first, hidden, output, network = measure_cell(cell)
    assert hidden["full_rank"] and hidden["dispersion"] < 1e-9
    assert hidden["constant"] == pytest.approx(2 * 9**2)
    assert first["input_rank"] == first["sensitivity_rank"] == 18
    assert output["constant"] == pytest.approx(1)
    total = first["constant"] + hidden["constant"] + output["constant"]
    assert network["constant"] == pytest.approx(total)


def test_the_seeds_of_a_network_share_their_programs(caplog):
    cells = parse({**STUDY, "channels": 5, "seeds": [0, 1], "claims": []}).cells()

    def programs(cell):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            measure_cell(cell)
        return sum("Finished XLA compilation" in message for message in caplog.messages)

    assert programs(cells[0]) > 0
    assert programs(cells[1]) == 0


def test_a_study_is_stored_and_reported(tmp_path):
    summary = run(parse(STUDY), tmp_path, measure=lambda cell: rows(cell.settings))
    assert summary.holds, summary
    paths = write_report(tmp_path)
    assert (tmp_path / "figures" / "layers.png").stat().st_size > 5000
    assert "layer by layer" in paths[-1].read_text(encoding="utf-8")
