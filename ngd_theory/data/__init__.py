"""Data sets and input transforms. Nothing is read or downloaded at import."""

from ngd_theory.data.curves import curves
from ngd_theory.data.dataset import Dataset
from ngd_theory.data.errors import DataError
from ngd_theory.data.forster_transform import forster
from ngd_theory.data.images import autoencoder_images
from ngd_theory.data.loading import load
from ngd_theory.data.sources import source_names
from ngd_theory.data.transforms import principal_components, standardise, unit_rows

__all__ = [
    "DataError",
    "Dataset",
    "autoencoder_images",
    "curves",
    "forster",
    "load",
    "principal_components",
    "source_names",
    "standardise",
    "unit_rows",
]
