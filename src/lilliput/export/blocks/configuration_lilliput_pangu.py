"""Configuration of a Llama with PanGu-π blocks (arXiv 2312.17276). Needs transformers 4.56 or later."""

# mypy: ignore-errors
from transformers import LlamaConfig


class LilliputPanguConfig(LlamaConfig):
    """A Llama's configuration and two sizes.

    shortcut_size: bottleneck of the augmented shortcut beside attention; 0 for none.
    activation_series: terms of the feed-forward's activation; 1 for the plain one, 2 for PanGu-π's.
    """

    model_type = "lilliput_pangu"

    def __init__(self, shortcut_size: int = 0, activation_series: int = 1, **kwargs):
        self.shortcut_size = shortcut_size
        self.activation_series = activation_series
        super().__init__(**kwargs)
