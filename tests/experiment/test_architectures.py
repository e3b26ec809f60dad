"""Residual, attention and recurrent networks from settings: refused in words, built as asked, never a false verdict."""

import pytest

from ngd_theory import experiment, networks
from ngd_theory.errors import InputError
from ngd_theory.experiment import Outcome, parse
from ngd_theory.experiment.building import DataSize, make_network
from ngd_theory.experiment.settings import LATER, Settings
from ngd_theory.sweeps.theory_cells import TheoryCell

TOKENS = {"architecture": "transformer", "tokens": 2}
IMAGES = {"architecture": "conv-resnet", "dataset": "gaussian"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architecture": "resnet", "depth": 2}, ["depth is 2", "depth - 2 blocks", "3 at least"]),
        ({"architecture": "transformer", "depth": 2}, ["depth is 2", "blocks of six layers"]),
        ({"architecture": "recurrent", "depth": 2}, ["depth is 2", "three layers"]),
        ({"architecture": "recurrent", "depth": 4}, ["depth is 4", "three layers"]),
        (
            {"architecture": "recurrent", "kernel": "infinite"},
            ["no infinite-width kernel", "recurrent"],
        ),
        ({**TOKENS, "kernel": "infinite"}, ["no infinite-width kernel", "transformer"]),
        ({"architecture": "lstm"}, ["mlp", "recurrent"]),
        ({"tokens": 0}, ["greater than or equal to 1"]),
        ({"norm": "batch"}, ["layer", "rms"]),
        ({"token_readout": "first"}, ["mean", "last"]),
        (IMAGES, ["image_size"]),
        ({**IMAGES, "image_size": 3, "input_dim": 5}, ["input_dim is 5", "27 numbers"]),
        ({"sharing": "reduce"}, ["sharing", "mlp"]),
        ({**TOKENS, "sharing": "reduce", "approximations": ("exact",)}, ["sharing", "exact"]),
        ({"parameterization": "standard"}, ["ntk", "mup"]),
        ({**TOKENS, "parameterization": "mup"}, ["mup", "transformer", "resnet"]),
        ({"architecture": "recurrent", "parameterization": "mup"}, ["mup", "recurrent"]),
        ({"parameterization": "mup", "depth": 1}, ["depth 1", "depth 2 at least"]),
        ({"parameterization": "mup", "kernel": "infinite"}, ["no kernel limit", "empirical"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_words(values, words):
    with pytest.raises(InputError) as caught:
        parse(values)
    for word in words:
        assert word in str(caught.value)


def test_tokens_that_do_not_divide_the_inputs_are_refused():
    for architecture in ("transformer", "recurrent"):
        settings = parse({"architecture": architecture, "tokens": 3, "dataset": "gaussian"})
        with pytest.raises(InputError, match="10 numbers cannot be cut into 3 tokens"):
            make_network(settings, DataSize(10, 1))


def test_heads_must_divide_the_width():
    settings = parse({**TOKENS, "width": 6, "heads": 4})
    with pytest.raises(InputError, match="multiple of the 4 heads"):
        make_network(settings, DataSize(8, 1))


def test_positions_that_share_weights_may_be_reduced():
    settings = parse({**TOKENS, "sharing": "reduce", "approximations": ("kfac",)})
    assert settings.sharing == "reduce"


BUILT = {
    "mlp": ({}, networks.mlp(8, [6, 6], 2)),
    "resnet": (
        {"norm": "rms", "depth": 4, "bias_std": 0.1},
        networks.resnet(8, 6, 2, 2, bias_std=0.1, norm="rms"),
    ),
    "conv-resnet": (
        {"dataset": "gaussian", "image_size": 2, "image_channels": 2, "kernel_size": 1},
        networks.resnet((2, 2, 2), 6, 1, 2, kernel_size=1),
    ),
    "transformer": (
        {"tokens": 4, "heads": 3, "causal": True, "token_readout": "last", "norm": "none"},
        networks.transformer(
            *(4, 2, 6, 1, 2, "relu", 2**0.5), heads=3, causal=True, readout="last", norm="none"
        ),
    ),
    "recurrent": ({"tokens": 4}, networks.recurrent(4, 2, 6, 2, "relu", 2**0.5)),
    "mlp, mup": (
        {"parameterization": "mup", "bias_std": 0.1},
        networks.mlp(8, [6, 6], 2, bias_std=0.1, parameterization="mup"),
    ),
    "cnn, mup": (
        {"dataset": "gaussian", "image_size": 2, "image_channels": 2, "parameterization": "mup"},
        networks.cnn((2, 2, 2), [6, 6], 2, parameterization="mup"),
    ),
    "resnet, mup": (
        {"parameterization": "mup"},
        networks.resnet(8, 6, 1, 2, parameterization="mup"),
    ),
}


@pytest.mark.parametrize("architecture", BUILT)
def test_the_network_is_the_one_asked_for(architecture):
    values, expected = BUILT[architecture]
    settings = parse({"architecture": architecture.partition(",")[0], "width": 6, **values})
    assert make_network(settings, DataSize(8, 2)) == expected


def test_a_known_cell_keeps_its_identity_and_a_new_setting_changes_it():
    plain = TheoryCell(Settings(dataset="gaussian", width=8))
    assert not set(LATER) & set(plain.config["settings"])
    changes = {"tokens": 2, "heads": 2, "causal": True, "token_readout": "last", "norm": "rms"}
    changes |= {"parameterization": "mup", "batch_size": 8, "batch_order": "independent"}
    changes |= {"momentum": 0.5, "momentum_kind": "spring", "own_norms": True}
    assert set(changes) == set(LATER)
    others = [
        TheoryCell(Settings(dataset="gaussian", width=8, **{name: value}))
        for name, value in changes.items()
    ]
    assert len({cell.id for cell in [plain, *others]}) == len(others) + 1
    defaults = {name: Settings.model_fields[name].default for name in LATER}
    assert TheoryCell(Settings(dataset="gaussian", width=8, **defaults)).id == plain.id


SMALL = {
    "dataset": "gaussian",
    "input_dim": 16,
    "num_train": 4,
    "num_test": 3,
    "width": 32,
    "steps": 2,
    "activation": "tanh",
    "tokens": 2,
    "approximations": ("exact", "kfac"),
}


@pytest.mark.parametrize("architecture", ["resnet", "transformer", "recurrent"])
def test_no_claim_fails_and_the_constant_is_of_measured_ranks(architecture):
    report = experiment.verify(parse({**SMALL, "architecture": architecture}))
    assert report.holds
    # So narrow a network cannot tell how wide it is; every limit must be told.
    limits = [v for v in report.verdicts if v.claim != "finite-width-gap"]
    undecided = {v.outcome for v in limits} - {Outcome.PASS, Outcome.NOT_APPLICABLE}
    assert not undecided, [v for v in limits if v.outcome in undecided]
    n, t = 4, 2
    kfac = {
        "resnet": 2 * n + 1,
        "transformer": 5 * n * t**2 + 2 * n * t * (t - 1) + 1,
        "recurrent": n * t**2 + n * t * (t - 1) + 1,
    }
    for name, constant in (("exact", 1), ("kfac", kfac[architecture])):
        evidence = report.evidence[name]
        assert evidence.constant_from == "ranks"
        assert evidence.constant == pytest.approx(constant, rel=1e-12)


def test_a_scaled_readout_passes_every_claim_about_the_limit_as_sharply():
    mup = experiment.verify(parse({**SMALL, "width": 64, "parameterization": "mup"}))
    ntk = experiment.verify(parse({**SMALL, "width": 64}))
    outcomes = {(v.claim, v.approximation): v for v in mup.verdicts}
    for name in ("exact", "kfac"):
        # The kernel is 1/M of what it was, and so is the damping beside it.
        assert mup.evidence[name].damping == pytest.approx(ntk.evidence[name].damping / 64, 1e-12)
        assert outcomes["finite-width-gap", name].outcome is Outcome.NOT_APPLICABLE
        assert "features move at every width" in outcomes["finite-width-gap", name].why
    for verdict in ntk.verdicts:
        if verdict.claim == "finite-width-gap":
            continue
        found = outcomes[verdict.claim, verdict.approximation]
        assert found.outcome is verdict.outcome, found
        if verdict.outcome is Outcome.PASS:
            assert found.power <= max(1e-3, 3 * verdict.power)
