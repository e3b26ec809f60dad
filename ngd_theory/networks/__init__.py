"""Floor 1: wide networks in the NTK parameterisation and their factored Jacobian."""

from ngd_theory.networks.activations import ACTIVATIONS
from ngd_theory.networks.autoencoder import AUTOENCODERS, autoencoder
from ngd_theory.networks.block import Block
from ngd_theory.networks.calls import Layers
from ngd_theory.networks.chain import chain
from ngd_theory.networks.cnn import cnn
from ngd_theory.networks.convolution import AveragePool, Convolution, MaxPool
from ngd_theory.networks.embedding import Embedding
from ngd_theory.networks.function import linearize_function
from ngd_theory.networks.grouping import Grouping
from ngd_theory.networks.initialization import (
    scaled_init,
    sparse_init,
    standard_parameterization,
)
from ngd_theory.networks.layers import Affine, Dense, Layer
from ngd_theory.networks.layout import EmbeddingLayout, GroupLayout, ParameterLayout
from ngd_theory.networks.linearization import (
    LayerLinearization,
    Linearization,
    backpropagate,
    linearize,
)
from ngd_theory.networks.mlp import mlp
from ngd_theory.networks.models import linearize_model
from ngd_theory.networks.network import Network, network
from ngd_theory.networks.normalization import layer_norm, rms_norm
from ngd_theory.networks.recurrent import recurrent
from ngd_theory.networks.resnet import resnet
from ngd_theory.networks.scale_shift import ScaleShift
from ngd_theory.networks.sharding import device_mesh, shard_parameters, shard_samples
from ngd_theory.networks.sizes import LayerSize
from ngd_theory.networks.transformer import transformer

__all__ = [
    "ACTIVATIONS",
    "AUTOENCODERS",
    "Affine",
    "AveragePool",
    "Block",
    "Convolution",
    "Dense",
    "Embedding",
    "EmbeddingLayout",
    "GroupLayout",
    "Grouping",
    "Layer",
    "LayerLinearization",
    "LayerSize",
    "Layers",
    "Linearization",
    "MaxPool",
    "Network",
    "ParameterLayout",
    "ScaleShift",
    "autoencoder",
    "backpropagate",
    "chain",
    "cnn",
    "device_mesh",
    "layer_norm",
    "linearize",
    "linearize_function",
    "linearize_model",
    "mlp",
    "network",
    "recurrent",
    "resnet",
    "rms_norm",
    "scaled_init",
    "shard_parameters",
    "shard_samples",
    "sparse_init",
    "standard_parameterization",
    "transformer",
]
