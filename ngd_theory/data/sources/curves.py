"""CURVES as a source: the images are their own targets."""

from ngd_theory.data.curves import curves
from ngd_theory.data.raw import RawData, Request, Rows


def load_curves(request: Request) -> RawData:
    """The 20,000 images of ``curves()``, each its own target; ``seed`` only draws among them."""
    del request
    images = curves()
    return RawData(
        train=Rows(images, images),
        test=None,
        input_shape=(28, 28, 1),
        origin="CURVES (drawn with seed 0)",
    )
