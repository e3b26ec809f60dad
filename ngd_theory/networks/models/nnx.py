"""Modules of flax.nnx. In a copy of the model, layers get a class whose output passes through a tap."""

import jax

from ngd_theory.networks.models.flax import MAKERS, general, linear
from ngd_theory.networks.models.known import Known
from ngd_theory.networks.models.leaves import by_parent
from ngd_theory.networks.models.model import AnyModel


def recognises(model) -> bool:
    """Whether it is a module of flax.nnx."""
    return any(cls.__module__.startswith("flax.nnx") for cls in type(model).__mro__)


def split(model, variables):
    """The module's graph, its parameters, and its other state."""
    from flax import nnx

    return nnx.split(model, nnx.Param, ...)


class Model(AnyModel):
    """An nnx module; see `AnyModel`."""

    boxed = True

    def __init__(self, static, params, rest):
        from flax import nnx

        self._graph, self.params, self._rest = static, params, rest
        model = nnx.merge(static, params, rest)
        makers = {nnx.Linear: linear, nnx.LinearGeneral: general}
        makers |= {getattr(nnx, k): v for k, v in MAKERS.items()}
        leaves = by_parent(self.params, self.boxed)
        self.known: list[Known] = []
        self._numbers: dict[str, int] = {}
        for path, node in nnx.iter_graph(model):
            name = "/".join(map(str, path))
            if type(node) not in makers:
                continue
            own = {key for key, value in vars(node).items() if isinstance(value, nnx.Param)}
            # A parameter shared with another module may be a leaf of that one only; this layer is then a group.
            if own <= leaves.get(name, {}).keys():
                kind = f"flax.nnx.{type(node).__name__}"
                known = makers[type(node)](kind, name, leaves[name], node)
                if known is not None:
                    self._numbers[name] = len(self.known)
                    self.known.append(known)

    def run(self, params, sample, tap):
        """Outputs (C,) of one sample."""
        from flax import nnx

        model = self._merged(params)
        for path, node in list(nnx.iter_graph(model)):
            number = self._numbers.get("/".join(map(str, path)))
            if number is not None:
                node.__class__ = _tapped(type(node), number, tap)
        return jax.tree.map(lambda made: made[0], model(sample[None]))

    def batch(self, params, x):
        """Outputs (N, C) of all samples at once."""
        return self._merged(params)(x)

    def _merged(self, params):
        from flax import nnx

        # New variables for the current trace: the model may change them, and the changes are dropped.
        return nnx.merge(self._graph, *jax.tree.map(lambda leaf: leaf, (params, self._rest)))


def _tapped(cls: type, number: int, tap) -> type:
    """A class like ``cls`` whose output passes through the tap."""

    def call(self, *args, **options):
        made = cls.__call__(self, *args, **options)
        # An input given by keyword is not seen, so the layer is then treated as a group.
        return tap(number, args[0], made) if args else made

    return type(cls.__name__, (cls,), {"__call__": call})
