"""Models of equinox. Layers are leaves of the model's tree; each is replaced by one with a tap on its output."""

from collections.abc import Callable

import jax

from ngd_theory.networks.models.known import Known, Place, convolution, dense, embedding
from ngd_theory.networks.models.model import AnyModel


def recognises(model) -> bool:
    """Whether it is a module of equinox."""
    return any(cls.__module__.startswith("equinox") for cls in type(model).__mro__)


def split(model, variables):
    """The hashable part of the model, its parameters, and its other arrays."""
    import equinox

    params, others = equinox.partition(model, equinox.is_inexact_array)
    rest, static = equinox.partition(others, equinox.is_array)
    leaves, structure = jax.tree.flatten(static)
    return (structure, tuple(leaves)), params, rest


class Model(AnyModel):
    """An equinox model. It takes one sample, so outputs cannot depend on other samples."""

    takes_batches = False

    def __init__(self, static, params, rest):
        import equinox

        structure, leaves = static
        self.params = params
        self._others = equinox.combine(rest, jax.tree.unflatten(structure, leaves))
        model = equinox.combine(params, self._others)
        wrappers = equinox.nn.WeightNorm, equinox.nn.SpectralNorm, equinox.nn.Shared
        self._makers: dict[type, Callable] = {
            equinox.nn.Linear: _linear,
            equinox.nn.Embedding: _embedding,
            **dict.fromkeys(
                (equinox.nn.Conv, equinox.nn.Conv1d, equinox.nn.Conv2d, equinox.nn.Conv3d), _conv
            ),
            # They take their inner layers apart at every call, so these layers are treated as groups.
            **dict.fromkeys(wrappers, lambda node, name: None),
        }
        self._is_layer = lambda node: type(node) in self._makers
        nodes, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=self._is_layer)
        self.known: list[Known] = []
        self._numbers: dict[int, int] = {}
        for index, (path, node) in enumerate(nodes):
            if self._is_layer(node):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                known = self._makers[type(node)](node, name)
                if known is not None:
                    self._numbers[index] = len(self.known)
                    self.known.append(known)

    def run(self, params, sample, tap):
        """Outputs (C,) of one sample."""
        import equinox

        model = equinox.combine(params, self._others)
        leaves, structure = jax.tree.flatten(model, is_leaf=self._is_layer)
        tapped = [
            _Tapped(leaf, self._numbers[index], tap) if index in self._numbers else leaf
            for index, leaf in enumerate(leaves)
        ]
        made = jax.tree.unflatten(structure, tapped)(sample)
        return made[None] if getattr(made, "ndim", None) == 0 else made


class _Tapped:
    """A layer with a tap on its output; all other attributes are those of the layer."""

    def __init__(self, layer, number: int, tap):
        self._layer, self._number, self._tap = layer, number, tap

    def __call__(self, *args, **options):
        made = self._layer(*args, **options)
        # An input given by keyword is not seen, so the layer is then treated as a group.
        return self._tap(self._number, args[0], made) if args else made

    def __getattr__(self, name):
        return getattr(self._layer, name)


def _name(name: str, leaf: str) -> str:
    return f"{name}/{leaf}" if name else leaf


def _linear(layer, name):
    if layer.weight.ndim != 2 or "scalar" in (layer.in_features, layer.out_features):
        return None
    units, fan_in = layer.weight.shape
    weight = Place("weight", _name(name, "weight"), (fan_in, units), (1, 0))
    bias = Place("bias", _name(name, "bias"), (units,)) if layer.use_bias else None
    return dense(name, "equinox.nn.Linear", weight, bias, (fan_in, units))


def _embedding(layer, name):
    if layer.weight.ndim != 2:
        return None
    place = Place("weight", _name(name, "weight"), layer.weight.shape)
    return embedding(name, "equinox.nn.Embedding", place, *layer.weight.shape)


def _conv(layer, name):
    d = layer.num_spatial_dims
    if layer.weight.ndim != d + 2:
        return None
    units, channels, *kernel = layer.weight.shape
    padding = layer.padding.lower() if isinstance(layer.padding, str) else layer.padding
    if layer.padding_mode.lower() != "zeros" or (
        isinstance(padding, str) and padding not in ("same", "valid")
    ):
        return None
    weight = Place(
        "weight", _name(name, "weight"), (*kernel, channels, units), (d + 1, d, *range(d))
    )
    bias = Place("bias", _name(name, "bias"), (units, *[1] * d)) if layer.use_bias else None
    options = {
        "units": units,
        "kernel_size": tuple(kernel),
        "stride": tuple(layer.stride),
        "padding": padding if isinstance(padding, str) else tuple(map(tuple, padding)),
        "dilation": tuple(layer.dilation),
        "groups": layer.groups,
    }
    return convolution(name, "equinox.nn.Conv", weight, bias, options, first=True)
