"""Configuration of a Llama some of whose layers run for a part of the tokens. Needs transformers 4.56 or later."""

# mypy: ignore-errors
from transformers import LlamaConfig


class LilliputDepthsConfig(LlamaConfig):
    """A Llama's configuration and two numbers.

    routed_every: every so many layers one is routed, layer `routed_every - 1` first.
    routed_capacity: the share of the tokens that a routed layer ran for in training; a token's own predictor decides
    since.
    """

    model_type = "lilliput_depths"

    def __init__(self, routed_capacity: float = 0.125, routed_every: int = 2, **kwargs):
        self.routed_capacity = routed_capacity
        self.routed_every = routed_every
        super().__init__(**kwargs)
