"""A committee of classifiers for transformers, 4.56 or later. Written by Lilliput.

Each member reads the text; the votes are summed, as probabilities or as logits. What comes out are logits: of summed
probabilities their logarithms, so that softmax gives the mean probability.
"""

# mypy: ignore-errors
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_lilliput_committee import LilliputCommitteeConfig
from .configuration_lilliput_encoder import LilliputEncoderConfig
from .modeling_lilliput_encoder import LilliputEncoderForSequenceClassification


def _member(raw, labels):
    raw = {key: value for key, value in raw.items() if key not in ("auto_map", "architectures", "model_type")}
    raw["num_labels"] = labels
    if raw.get("conv_layers"):
        return LilliputEncoderForSequenceClassification(LilliputEncoderConfig(**raw))
    return BertForSequenceClassification(BertConfig(**raw))


class LilliputCommitteeForSequenceClassification(PreTrainedModel):
    """All members, and their votes summed."""

    config_class = LilliputCommitteeConfig

    def __init__(self, config):
        super().__init__(config)
        self.members = nn.ModuleList(_member(raw, config.num_labels) for raw in config.members)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, labels=None, **kwargs):
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        votes = torch.stack([member(input_ids, **given).logits.float() for member in self.members])
        logits = votes.softmax(-1).mean(0).log() if self.config.vote == "softmax" else votes.mean(0)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
