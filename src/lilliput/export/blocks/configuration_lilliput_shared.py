"""Configuration of a Llama whose layers share weights. Needs transformers 4.56 or later."""

# mypy: ignore-errors
from transformers import LlamaConfig


class LilliputSharedConfig(LlamaConfig):
    """A Llama's configuration and what its layers have in common; num_hidden_layers counts passes.

    share_ffn, share_attention_output: the layers whose feed-forward, or attention's output matrix, is one: "all",
    "interior" (all but the first and the last), "2-5" (both included, from 0), or None for none.
    share_loops: how often the looped layers run their block, 1 for none. share_looped: which these are, None for all.
    share_lora: rank of the LoRA of each use of a shared matrix; 0 for none.
    """

    model_type = "lilliput_shared"

    def __init__(
        self, share_ffn=None, share_attention_output=None, share_loops=1, share_looped=None, share_lora=0, **kwargs
    ):
        self.share_ffn = share_ffn
        self.share_attention_output = share_attention_output
        self.share_loops = share_loops
        self.share_looped = share_looped
        self.share_lora = share_lora
        super().__init__(**kwargs)

    def share_owners(self, part):
        """For each layer, the first of those that use its `part`, such as "mlp.up_proj"."""
        own = list(range(self.num_hidden_layers))
        if self.share_loops > 1:
            first, after = self._span(self.share_looped or "all")
            period = (after - first) // self.share_loops
            own[first:after] = [first + (layer - first) % period for layer in range(first, after)]
        among = {"mlp.": self.share_ffn, "self_attn.o_proj": self.share_attention_output}
        for beginning, said in among.items():
            if said is not None and part.startswith(beginning):
                first, after = self._span(said)
                own[first:after] = [own[first]] * (after - first)
        return own

    def _span(self, said):
        if said == "all":
            return 0, self.num_hidden_layers
        if said == "interior":
            return 1, self.num_hidden_layers - 1
        first, last = said.split("-")
        return int(first), int(last) + 1
