"""Data, network and approximations made from settings."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from ngd_theory import data, fisher, losses, networks
from ngd_theory.data.sources.npz import npz_input_dim, npz_output_dim
from ngd_theory.errors import InputError
from ngd_theory.experiment.settings import IMAGES, Settings


def load_data(settings: Settings) -> data.Dataset:
    """The data set that the settings ask for."""
    return data.load(
        settings.dataset,
        classes=settings.chosen_classes,
        num_train=settings.num_train,
        num_test=settings.num_test,
        seed=settings.seed,
        unit_norm=not settings.own_norms,
        forster=settings.forster,
        input_dim=settings.chosen_dims[0],
        output_dim=settings.chosen_dims[1],
        data_dir=settings.data_dir,
        targets=_target_coding(settings),
    )


def _target_coding(settings: Settings) -> str:
    return "one-hot" if settings.loss == "cross-entropy" else "centred"


class DataSize(NamedTuple):
    """Sizes of the data that a network needs."""

    input_dim: int
    output_dim: int
    input_shape: tuple[int, ...] = ()


def data_size(settings: Settings) -> DataSize:
    """M_0 and C of the data that the settings ask for, from one prepared row or from the targets of a file.

    Raises
    ------
    InputError
        If there are no such data.
    """
    input_dim, output_dim = settings.chosen_dims
    if input_dim is not None and output_dim is not None:
        return DataSize(input_dim, output_dim)
    path = Path(settings.dataset).expanduser()
    if path.suffix == ".npz" and settings.architecture not in IMAGES:
        coding = _target_coding(settings)
        found = npz_output_dim(path, settings.chosen_classes, coding, output_dim)
        return DataSize(input_dim or npz_input_dim(path), found)
    one = {"num_train": 1, "num_test": 0, "forster": False, "input_dim": None}
    found = load_data(settings.model_copy(update=one))
    return DataSize(input_dim or found.input_dim, found.output_dim, found.input_shape)


def data_digest(settings: Settings) -> str:
    """`Dataset.digest` of the data that the settings ask for, before the rows are transformed."""
    plain: dict[str, Any] = {"forster": False}
    if settings.dataset != "gaussian":
        plain["input_dim"] = None
    return load_data(settings.model_copy(update=plain)).digest


def make_network(settings: Settings, dataset: data.Dataset | DataSize) -> networks.Network:
    """The network that the settings ask for.

    Raises
    ------
    InputError
        For a cnn on data that are no images, or inputs that cannot be cut into tokens.
    """
    return _BUILDERS[settings.architecture](settings, dataset)


def _mlp(s: Settings, dataset) -> networks.Network:
    hidden = [s.width] * (s.depth - 1)
    how = {"parameterization": s.parameterization}
    return networks.mlp(dataset.input_dim, hidden, dataset.output_dim, *_activation(s), **how)


def _cnn(s: Settings, dataset) -> networks.Network:
    return networks.cnn(
        _image_shape(s, dataset),
        [s.width] * (s.depth - 1),
        dataset.output_dim,
        s.kernel_size,
        s.stride,
        s.padding,
        s.activation,
        s.readout,
        s.weight_std,
        s.bias_std,
        pool=s.pool,
        parameterization=s.parameterization,
    )


def _resnet(s: Settings, dataset) -> networks.Network:
    shape = _image_shape(s, dataset) if s.architecture in IMAGES else dataset.input_dim
    return networks.resnet(
        shape,
        s.width,
        s.depth - 2,
        dataset.output_dim,
        *_activation(s),
        norm=s.norm,
        kernel_size=s.kernel_size,
        parameterization=s.parameterization,
    )


def _transformer(s: Settings, dataset) -> networks.Network:
    return networks.transformer(
        s.tokens,
        _token_dim(s, dataset),
        s.width,
        s.depth - 2,
        dataset.output_dim,
        *_activation(s),
        heads=s.heads,
        causal=s.causal,
        readout=s.token_readout,
        norm=s.norm,
    )


def _recurrent(s: Settings, dataset) -> networks.Network:
    return networks.recurrent(
        s.tokens, _token_dim(s, dataset), s.width, dataset.output_dim, *_activation(s)
    )


_BUILDERS = {
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet": _resnet,
    "conv-resnet": _resnet,
    "transformer": _transformer,
    "recurrent": _recurrent,
}


def _activation(s: Settings) -> tuple[str, float, float]:
    return s.activation, s.weight_std, s.bias_std


def _token_dim(s: Settings, dataset) -> int:
    """Dimension of a token: the inputs are cut into ``tokens`` pieces of equal size."""
    if dataset.input_dim % s.tokens:
        raise InputError(
            f"inputs of {dataset.input_dim} numbers cannot be cut into {s.tokens} tokens: change tokens or input_dim"
        )
    return dataset.input_dim // s.tokens


def _image_shape(s: Settings, dataset) -> tuple[int, ...]:
    shape = s.image_shape or dataset.input_shape
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise InputError(
            f"a {s.architecture} takes images; the inputs of {s.dataset} have shape {shape}"
        )
    return shape


def shaped(network, inputs, dtype):
    """Rows of numbers in the input shape of the network."""
    return jnp.asarray(inputs, dtype).reshape(len(inputs), *network.input_shape)


def make_approximation(name: str, loss: str, sharing: str = "expand") -> fisher.Approximation:
    """The approximation called ``name``, with the Fisher of ``loss``."""
    options: dict[str, Any] = {} if sharing == "expand" else {"sharing": sharing}
    if loss != losses.MSE.name and name != "identity":
        options["kind"] = fisher.TrueFisher(loss)
    return fisher.by_name(name, **options)


def broken_premises(settings: Settings, network: networks.Network, name: str) -> dict[str, str]:
    """Premises of isotropy that fail at these sizes; see `Approximation.broken_premises`."""
    approximation = make_approximation(name, settings.loss, settings.sharing)
    equal = settings.forster and settings.bias_std == 0
    return approximation.broken_premises(network.layer_sizes, settings.num_train, equal)
