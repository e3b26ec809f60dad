"""What layers of flax.linen and flax.nnx have in common."""

from collections.abc import Sequence
from math import prod

from ngd_theory.networks.models.known import Known, Place, convolution, dense, embedding


def linear(kind: str, name: str, leaves: dict, layer) -> Known | None:
    """A dense layer with a kernel (fan_in, units)."""
    sizes = leaves["kernel"].shape
    if len(sizes) != 2:  # Several layers in one leaf, for a scan.
        return None
    return dense(name, kind, _place(leaves, "kernel"), _bias(leaves, sizes[1:]), sizes)


def general(kind: str, name: str, leaves: dict, layer) -> Known | None:
    """A dense layer over several input and output axes; the input axes must be the last ones."""
    axes = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    batched = getattr(layer, "batch_dims", ()) or getattr(layer, "batch_axis", {})
    shape = leaves["kernel"].shape
    features = layer.features if hasattr(layer, "features") else layer.out_features
    made = len(features) if isinstance(features, Sequence) else 1
    if batched or axes != tuple(range(-len(axes), 0)) or len(shape) != len(axes) + made:
        return None
    inputs, outputs = shape[: len(axes)], shape[len(axes) :]
    sizes = prod(inputs), prod(outputs)
    return dense(
        name,
        kind,
        _place(leaves, "kernel"),
        _bias(leaves, outputs),
        sizes,
        len(inputs),
        len(outputs),
    )


def conv(kind: str, name: str, leaves: dict, layer) -> Known | None:
    """A convolution with a kernel (*sizes, channels, units) and zero padding."""
    *kernel, _, units = leaves["kernel"].shape
    d = len(kernel)
    size = layer.kernel_size
    if d != (1 if isinstance(size, int) else len(size)):
        return None
    padding = layer.padding
    if isinstance(padding, str):
        padding = padding.lower()
        if padding not in ("same", "valid"):
            return None
    else:
        each = [padding] * d if isinstance(padding, int) else padding
        padding = tuple((p, p) if isinstance(p, int) else tuple(p) for p in each)
    if layer.mask is not None or _numbers(layer.input_dilation, d) != (1,) * d:
        return None
    options = {
        "units": units,
        "kernel_size": tuple(kernel),
        "stride": _numbers(layer.strides, d),
        "padding": padding,
        "dilation": _numbers(layer.kernel_dilation, d),
        "groups": layer.feature_group_count,
    }
    return convolution(name, kind, _place(leaves, "kernel"), _bias(leaves, (units,)), options)


def embed(kind: str, name: str, leaves: dict, layer) -> Known | None:
    """An embedding with a table (vocabulary, units)."""
    shape = leaves["embedding"].shape
    if len(shape) != 2:
        return None
    return embedding(name, kind, _place(leaves, "embedding"), *shape)


#: Class name in both libraries -> function of (type, name, leaves by short name, layer) that makes our layer.
MAKERS = {"Conv": conv, "Embed": embed}


def _place(leaves: dict, short: str) -> Place:
    return Place("weight", leaves[short].name, leaves[short].shape)


def _bias(leaves: dict, shape: tuple[int, ...]) -> Place | None:
    return Place("bias", leaves["bias"].name, tuple(shape)) if "bias" in leaves else None


def _numbers(value, d: int) -> tuple[int, ...]:
    value = 1 if value is None else value
    return (value,) * d if isinstance(value, int) else tuple(value)
