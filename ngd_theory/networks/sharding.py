"""Several devices: place parameters and samples on a mesh, and everything computed from them follows.

Units of the hidden layers are spread along the mesh's axis "width", samples along "samples". XLA partitions the rest:
sensitivities (N, C, T, M) along both, kernels along their rows, gradients like the parameters; matrices that are
factorised are gathered.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.networks.network import Network

SAMPLES, WIDTH = "samples", "width"


@checked
def device_mesh(
    width: int = 1,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
    """A mesh with ``width`` devices per row: units are spread along a row, samples over the rows.

    Parameters
    ----------
    width : int
        A divisor of the number of devices. Consecutive devices, such as those of one host, form a row.
    devices : sequence of jax devices, optional
        By default all devices of all hosts.

    Raises
    ------
    InputError
        If ``width`` does not divide the number of devices, or there is no device.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) == 0:
        raise InputError("devices is empty; give one at least, or leave it out for all")
    if width < 1 or len(devices) % width:
        raise InputError(f"width is {width}; it must divide the number of devices, {len(devices)}")
    return Mesh(np.asarray(devices).reshape(-1, width), (SAMPLES, WIDTH))


@checked
def shard_parameters(mesh: Mesh, network: Network, params):
    """Spread the units of hidden layers, and the inputs of the output layer, along the axis "width".

    Parameters
    ----------
    mesh : Mesh
        With an axis "width", such as that of `device_mesh`.
    network : Network
    params : like ``network.init(key)``

    Returns
    -------
    like ``params``

    Raises
    ------
    InputError
        If the axis does not divide the number of units of a hidden layer.
    """
    count = mesh.shape[WIDTH]
    placed = []
    for index, (layer, affine) in enumerate(zip(params, network.affine, strict=True), start=1):
        hidden = index < network.depth
        if hidden and affine.units % count:
            raise InputError(
                f"layer {index} has {affine.units} units, no multiple of the {count} devices along {WIDTH!r}"
            )
        placed.append(
            {
                name: _place(mesh, value, _spec(value.shape, hidden, count))
                for name, value in layer.items()
            }
        )
    return tuple(placed)


def _spec(shape: tuple[int, ...], hidden: bool, count: int) -> PartitionSpec:
    """Partition of a weight (..., M) or a bias (M,)."""
    if hidden:
        return PartitionSpec(*[None] * (len(shape) - 1), WIDTH)
    rows = len(shape) == 2 and shape[0] % count == 0
    return PartitionSpec(WIDTH) if rows else PartitionSpec()


def shard_samples(mesh: Mesh, *arrays: Array) -> tuple[Array, ...]:
    """Spread arrays, samples first, along the axis "samples".

    Parameters
    ----------
    mesh : Mesh
    *arrays : (N, ...)
        Such as inputs and targets; the same on every host.

    Raises
    ------
    InputError
        If the axis does not divide the number of samples.
    """
    count = mesh.shape[SAMPLES]
    for array in arrays:
        if len(array) % count:
            raise InputError(
                f"{len(array)} samples are no multiple of the {count} devices along {SAMPLES!r}"
            )
    return tuple(_place(mesh, array, PartitionSpec(SAMPLES)) for array in arrays)


def _place(mesh: Mesh, value: Array, spec: PartitionSpec) -> Array:
    return jax.device_put(value, NamedSharding(mesh, spec))


def on_host(array) -> np.ndarray:
    """The whole array in this process, wherever its parts are."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
