"""The training problems of the studies, by name: a network, its data and its objective."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ngd_theory import data, losses
from ngd_theory.arguments import checked
from ngd_theory.errors import choose
from ngd_theory.networks import (
    AUTOENCODERS,
    Network,
    autoencoder,
    cnn,
    scaled_init,
    sparse_init,
    standard_parameterization,
)


@dataclass(frozen=True)
class Problem:
    """What is trained, before any number is drawn.

    Attributes
    ----------
    network : Network
        In the standard parameterisation.
    loss : Loss
    error : ``(outputs, targets) -> ()``
        The training error that curves show.
    init : ``(network, key, scale, dtype) -> parameters``
        ``scale`` is that of the effective weights; None for the problem's own.
    load : ``(num_images, data_dir) -> (x, y)``
        ``num_images=None`` loads all images of the problem.
    """

    network: Network
    loss: losses.Loss
    error: Callable
    init: Callable
    load: Callable[[int | None, str | os.PathLike[str] | None], tuple[np.ndarray, np.ndarray]]


def _sparse(network: Network, key, scale: float | None, dtype):
    # 1.35 / sqrt(15) lets a signal through all layers.
    return sparse_init(network, key, scale=0.35 if scale is None else scale, dtype=dtype)


def _dense(network: Network, key, scale: float | None, dtype):
    return scaled_init(network, key, gain=2.0 if scale is None else scale**2, dtype=dtype)


def _autoencoder(name: str, loss: losses.Loss) -> Problem:
    def load(num_images, data_dir):
        x = np.asarray(data.autoencoder_images(name, num_images=num_images, data_dir=data_dir))
        return x, x

    network = autoencoder(*AUTOENCODERS[name])
    return Problem(network, loss, loss.squared_error, _sparse, load)


def _classifier(
    source: str, input_shape: tuple[int, int, int], channels: Sequence[int], total: int
) -> Problem:
    """Three 5 x 5 convolutions, each pooled by 2, and a dense layer (Grosse & Martens 2016, section 6).

    ``total`` is the number of images if none is given: at most as many as can be balanced over the classes.
    """

    def load(num_images, data_dir):
        found = data.load(
            source,
            num_train=total if num_images is None else num_images,
            targets="one-hot",
            standardise=False,
            unit_norm=False,
            data_dir=data_dir,
        )
        # Centred by the mean image, on the scale of the pixels' spread.
        x = found.inputs - found.inputs.mean(0)
        return (x / x.std()).reshape(-1, *input_shape), found.targets

    network = standard_parameterization(
        cnn(input_shape, channels, 10, 5, activation="relu", bias_std=1.0, pool=2)
    )
    loss = losses.CROSS_ENTROPY
    return Problem(network, loss, loss.value, _dense, load)


#: A new problem is one entry.
PROBLEMS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {
        "curves": lambda: _autoencoder("curves", losses.SIGMOID_CROSS_ENTROPY),
        "mnist": lambda: _autoencoder("mnist", losses.SIGMOID_CROSS_ENTROPY),
        "faces": lambda: _autoencoder("faces", losses.MSE),
        "mnist-cnn": lambda: _classifier("mnist", (28, 28, 1), (8, 16, 32), 5000),
        "cifar10-cnn": lambda: _classifier("cifar10", (32, 32, 3), (32, 32, 64), 50000),
        "svhn-cnn": lambda: _classifier("svhn", (32, 32, 3), (32, 32, 64), 46000),
    }
)


@checked
def problem(name: str) -> Problem:
    """Make the problem ``name``.

    Raises
    ------
    InputError
        For an unknown name.
    """
    return choose(PROBLEMS, name, "problem")()
