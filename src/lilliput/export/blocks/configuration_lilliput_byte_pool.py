"""Configuration of a byte-pooled model. Needs transformers 4.56 or later."""

# mypy: ignore-errors
from transformers import LlamaConfig


class LilliputBytePoolConfig(LlamaConfig):
    """A Llama's configuration, of the core, and that of the local parts.

    unit_bytes: bytes a unit has at most. byte_width: of the local layers. encoder_depth, decoder_depth: how many before
    and behind the core. pool: "attention" or "mean". byte_head: "autoregressive" or "parallel". hashes: rows of the
    tables of whole units and of their beginnings, 0 for none.
    """

    model_type = "lilliput_byte_pool"

    def __init__(
        self,
        unit_bytes: int = 12,
        byte_width: int = 64,
        encoder_depth: int = 2,
        decoder_depth: int = 2,
        pool: str = "attention",
        byte_head: str = "autoregressive",
        hashes: int = 0,
        **kwargs,
    ):
        self.unit_bytes = unit_bytes
        self.byte_width = byte_width
        self.encoder_depth = encoder_depth
        self.decoder_depth = decoder_depth
        self.pool = pool
        self.byte_head = byte_head
        self.hashes = hashes
        super().__init__(**kwargs)
