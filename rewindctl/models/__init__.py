"""Networks of the paper by name. A new one is a file here that registers a constructor."""

from rewindctl.models import resnet as _resnet
from rewindctl.models import wrn as _wrn
from rewindctl.models.build import build_network
from rewindctl.models.network import Network, NetworkConfig, kernels, models, register_model

__all__ = ["Network", "NetworkConfig", "build_network", "kernels", "models", "register_model"]

del _resnet, _wrn
