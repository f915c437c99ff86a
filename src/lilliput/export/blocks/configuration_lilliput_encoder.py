"""Configuration of a BERT with a convolutional front end. Needs transformers 4.56 or later."""

# mypy: ignore-errors
from transformers import BertConfig


class LilliputEncoderConfig(BertConfig):
    """A BERT's configuration and two sizes.

    conv_layers: 3×3 convolutions over the embedded text before the layers; 0 for none.
    conv_channels: channels of each.
    """

    model_type = "lilliput_encoder"

    def __init__(self, conv_layers: int = 0, conv_channels: int = 64, **kwargs):
        self.conv_layers = conv_layers
        self.conv_channels = conv_channels
        super().__init__(**kwargs)
