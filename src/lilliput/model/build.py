"""The model of a shape, whatever its family."""

from __future__ import annotations

from lilliput.model.byte_pool import BytePool
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.config import ModelConfig
from lilliput.model.decoder import Decoder


def build(config: ModelConfig) -> Decoder:
    """A model with all weights zero until `initialise` or a load sets them."""
    return BytePool(config) if isinstance(config, BytePoolConfig) else Decoder(config)
