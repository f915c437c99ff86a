"""Configuration of a committee of classifiers. Needs transformers 4.56 or later."""

# mypy: ignore-errors
from transformers import PretrainedConfig


class LilliputCommitteeConfig(PretrainedConfig):
    """members: the configuration of each member, as a dictionary. vote: "softmax" sums the members' probabilities,
    "logits" their logits."""

    model_type = "lilliput_committee"

    def __init__(self, members=(), vote: str = "softmax", **kwargs):
        self.members = list(members)
        self.vote = vote
        super().__init__(**kwargs)
