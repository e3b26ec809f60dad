"""Settings are checked before anything is computed; the message names what is wrong."""

import inspect
from typing import get_args

import pytest

from ngd_theory.cli.verify import verify
from ngd_theory.errors import InputError
from ngd_theory.experiment import Settings, parse

BAD = [
    ("dataset", "nonesuch", "no data source 'nonesuch'; choose one of cifar10, digits"),
    ("dataset", "mnist\n", "no data source 'mnist\\n'"),
    ("num_train", 0, "greater than or equal to 1"),
    ("num_train", -3, "greater than or equal to 1"),
    ("num_test", -1, "greater than or equal to 0"),
    ("width", 0, "greater than or equal to 1"),
    ("width", 1.5, "integer"),
    ("depth", 0, "greater than or equal to 1"),
    ("activation", "sigmoid", "relu, tanh, erf, gelu, identity"),
    ("weight_std", 0.0, "greater than 0"),
    ("weight_std", -1.0, "greater than 0"),
    ("weight_std", float("nan"), "finite number"),
    ("weight_std", float("inf"), "finite number"),
    ("bias_std", -0.1, "greater than or equal to 0"),
    ("bias_std", float("nan"), "finite number"),
    ("approximations", ("exactly",), "identity, exact, block-diagonal"),
    ("approximations", ("exact", "exact"), "twice"),
    ("step_scale", 0.0, "greater than 0"),
    ("step_scale", -1.0, "greater than 0"),
    ("step_scale", float("nan"), "finite number"),
    ("step_scale", float("inf"), "finite number"),
    ("steps", 0, "greater than or equal to 1"),
    ("damping", -1e-8, "greater than or equal to 0"),
    ("damping", float("nan"), "finite number"),
    ("damping", float("inf"), "finite number"),
    ("damping", "much", "number"),
    ("damping", 1e300, "at most 1e100"),
    ("loss", "hinge", "'mse' or 'cross-entropy'"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", 2**32, "less than 4294967296"),
    ("laziness", (0.5, 0.4), "at most a tenth"),
    ("laziness", (1.0,), "less than 1"),
    ("laziness", (0.0,), "greater than or equal"),
    ("precision", "float16", "'float32' or 'float64'"),
    ("input_dim", 0, "greater than or equal to 1"),
    ("output_dim", 0, "greater than or equal to 1"),
]


@pytest.mark.parametrize("name, value, allowed", BAD)
def test_a_bad_value_is_named_with_what_is_allowed(name, value, allowed):
    with pytest.raises(InputError) as caught:
        parse({name: value})
    message = str(caught.value)
    assert message.startswith("--" + name.replace("_", "-"))
    assert allowed in message
    assert "\n" not in message


def test_every_bad_value_is_named_at_once():
    with pytest.raises(InputError, match=r"--width 0: .*; --damping -1\.0: "):
        parse({"width": 0, "damping": -1.0})


def test_an_unknown_setting_is_refused():
    with pytest.raises(InputError, match="--widht"):
        parse({"widht": 3})


@pytest.mark.parametrize("name", ["kfac", "unit-wise", "entry-wise", "block-tridiagonal"])
def test_cross_entropy_refuses_what_it_cannot_predict(name):
    with pytest.raises(InputError, match=f"{name} cannot be predicted under cross-entropy.*exact"):
        parse({"loss": "cross-entropy", "approximations": ("exact", name)})


def test_what_is_run_without_a_choice_depends_on_the_loss():
    assert len(Settings().chosen_approximations) == 7
    assert parse({"loss": "cross-entropy"}).chosen_approximations == (
        "identity",
        "exact",
        "block-diagonal",
    )


def test_a_choice_of_approximations_keeps_its_order():
    chosen = parse({"approximations": ("kfac", "exact")}).chosen_approximations
    assert chosen == ("kfac", "exact")


def test_dimensions_are_chosen_for_gaussian_inputs_only():
    assert parse({"dataset": "gaussian"}).chosen_dims == (784, 1)
    assert parse({"dataset": "gaussian", "loss": "cross-entropy"}).chosen_dims == (784, 2)
    assert parse({"dataset": "gaussian", "output_dim": 3}).chosen_dims == (784, 3)
    assert parse({}).chosen_dims == (None, None)


@pytest.mark.parametrize(
    "dataset, classes", [("mnist", ("0", "1")), ("digits", ("0", "1")), ("my.npz", None)]
)
def test_the_digit_images_default_to_zeros_and_ones(dataset, classes):
    assert parse({"dataset": dataset}).chosen_classes == classes


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Settings().width = 3  # pyright: ignore


def test_the_defaults_are_those_of_the_issue_and_of_the_command_line():
    settings = Settings()
    issue = {"dataset": "mnist", "num_train": 100, "num_test": 100, "width": 1024, "depth": 3}
    issue |= {"activation": "relu", "weight_std": 2**0.5, "steps": 5, "step_scale": 0.5}
    issue |= {"precision": "float64", "loss": "mse"}
    for name, value in issue.items():
        assert getattr(settings, name) == value
    flags = inspect.signature(verify).parameters
    for name in Settings.model_fields:
        assert get_args(flags[name].annotation), name
        if name not in ("approximations", "laziness"):  # text on the command line
            assert flags[name].default == getattr(settings, name), name
