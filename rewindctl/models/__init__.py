"""Networks of the report by name. A new one is a file here that registers a constructor."""

from rewindctl.models import resnet as _resnet
from rewindctl.models import wrn as _wrn
from rewindctl.models.network import Network, build_network, kernels, models

__all__ = ["Network", "build_network", "kernels", "models"]

del _resnet, _wrn
