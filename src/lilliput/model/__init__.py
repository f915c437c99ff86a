"""The network: its shape, its parts, its loss, its starting weights, its spaces and how it writes text."""

from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder
from lilliput.model.init import initialise
from lilliput.model.spaces import Axis, spaces

__all__ = ["Axis", "Decoder", "ModelConfig", "initialise", "spaces"]
