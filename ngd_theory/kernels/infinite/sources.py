"""Which source serves which activation and layer."""

from ngd_theory.errors import NotPredictedError, choose
from ngd_theory.kernels.infinite.moments import ErfMoments, IdentityMoments, Moments, ReluMoments
from ngd_theory.kernels.infinite.quadrature import QuadratureMoments
from ngd_theory.networks import ACTIVATIONS, Network
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.resnet import Residual

SOURCES = ("auto", "closed-form", "neural-tangents")

#: Activation name -> moments in closed form. A new one is one line here.
CLOSED_FORMS: dict[str, Moments] = {
    "relu": ReluMoments(),
    "erf": ErfMoments(),
    "identity": IdentityMoments(),
}

#: Why a readout that is scaled down has no kernel limit.
NOT_LAZY = (
    'parameterization="mup" has no kernel limit: its kernel is 1/M of that of "ntk" and goes to 0, and its features '
    'move at every width, so that no kernel says how it trains. At initialisation it has the kernels of "ntk" over M'
)


def moments_of(activation: Activation) -> Moments:
    """Moments of an activation: the closed form if there is one, else by quadrature."""
    known = ACTIVATIONS.get(activation.name) == activation
    if known and activation.name in CLOSED_FORMS:
        return CLOSED_FORMS[activation.name]
    return QuadratureMoments(activation)


def has_recursion(net: Network) -> bool:
    """Whether our own recursion serves ``net``: a perceptron, or a residual network, of vectors."""
    if isinstance(net.function, Residual):
        return not net.function.convolutional
    return net.is_chain and _is_perceptron(net)


def _is_perceptron(net: Network) -> bool:
    """Whether a chain is of dense layers with one activation, or none, between them."""
    hidden = all(
        len(b.after) <= 1 and all(isinstance(f, Activation) for f in b.after)
        for b in net.blocks[:-1]
    )
    return hidden and not net.blocks[-1].after and all(type(b.affine) is Dense for b in net.blocks)


def resolve(source: str, net: Network) -> str:
    """``"closed-form"`` or ``"neural-tangents"``, for one of `SOURCES`.

    "auto" takes our own recursion wherever it holds, since it needs no other package.

    Raises
    ------
    InputError
        For an unknown source.
    NotPredictedError
        If the requested source cannot serve this network, or its readout is scaled down ("mup").
    """
    choose(dict.fromkeys(SOURCES), source, "source")
    if net.readout_scale != 1:
        raise NotPredictedError(NOT_LAZY)
    ours = has_recursion(net)
    if source == "closed-form" and not ours:
        raise NotPredictedError(
            "the closed-form recursion covers dense layers with one activation between them, and dense residual "
            "networks; this is another, whose ntk, nngp and layerwise_ntk neural-tangents may serve "
            '(source="neural-tangents")'
        )
    if source == "auto":
        return "closed-form" if ours else "neural-tangents"
    return source


def source_table() -> tuple[dict[str, str], ...]:
    """What serves each activation of dense layers under ``source="auto"``, and how.

    Returns
    -------
    tuple of dict
        One row per activation, with keys ``activation``, ``layer``, ``source``, ``method`` and ``neural-tangents``
        (what ``source="neural-tangents"`` uses).
    """
    from ngd_theory.kernels.infinite.bridge import describe

    rows = []
    for activation in ACTIVATIONS.values():
        moments = moments_of(activation)
        by_quadrature = isinstance(moments, QuadratureMoments)
        summary = (type(moments).__doc__ or "").splitlines()[0].rstrip(".")
        rows.append(
            {
                "activation": activation.name,
                "layer": "dense",
                "source": "quadrature" if by_quadrature else "closed form",
                "method": f"Hermite series of order {moments.order}" if by_quadrature else summary,
                "neural-tangents": describe(activation),
            }
        )
    return tuple(rows)
