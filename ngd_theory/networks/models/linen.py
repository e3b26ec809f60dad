"""Modules of flax.linen: calls of layers are intercepted."""

import jax

from ngd_theory.errors import InputError
from ngd_theory.networks.models.flax import MAKERS, general, linear
from ngd_theory.networks.models.known import Known
from ngd_theory.networks.models.leaves import by_parent
from ngd_theory.networks.models.model import AnyModel


def recognises(model) -> bool:
    """Whether it is a module of flax.linen."""
    return any(cls.__module__.startswith("flax.linen") for cls in type(model).__mro__)


def split(model, variables):
    """The module, its parameters, and its other variables."""
    if not (hasattr(variables, "keys") and "params" in variables):
        raise InputError(
            "a flax.linen module needs its variables: linearize_model(module, x, module.init(key, x))"
        )
    return model, variables["params"], {k: v for k, v in variables.items() if k != "params"}


class Model(AnyModel):
    """A linen module with its variables; see `AnyModel`."""

    def __init__(self, static, params, rest):
        self._module, self.params, self._rest = static, params, rest
        self._leaves = by_parent(self.params)
        self.known: list[Known] = []
        #: Path of a module -> number of the layer, None for a module that has no factors.
        self._numbers: dict[str, int | None] = {}

    def run(self, params, sample, tap):
        """Outputs (C,) of one sample."""
        return jax.tree.map(lambda made: made[0], self._apply(params, sample[None], tap))

    def batch(self, params, x):
        """Outputs (N, C) of all samples at once."""
        from flax import errors

        try:
            return self._module.apply({"params": params, **self._rest}, x)
        except errors.ModifyScopeVariableError as error:
            raise InputError(
                "the module changes its variables when it is called, as normalisation over the batch does in training: "
                f"give it use_running_average=True. flax says: {error}"
            ) from error

    def _apply(self, params, x, tap):
        from flax import linen

        def intercept(call, args, options, context):
            made = call(*args, **options)
            if context.method_name != "__call__" or not args:
                return made
            number = self._number(context.module)
            return made if number is None else tap(number, args[0], made)

        with linen.intercept_methods(intercept):
            return self.batch(params, x)

    def _number(self, module) -> int | None:
        from flax import linen

        name = "/".join(module.path)
        if name not in self._numbers:
            makers = {linen.Dense: linear, linen.DenseGeneral: general}
            makers |= {getattr(linen, k): v for k, v in MAKERS.items()}
            make, leaves = makers.get(type(module)), self._leaves.get(name)
            known = None
            if make and leaves:
                known = make(f"flax.linen.{type(module).__name__}", name, leaves, module)
            self._numbers[name] = None if known is None else len(self.known)
            if known is not None:
                self.known.append(known)
        return self._numbers[name]
