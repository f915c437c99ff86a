"""Reading many texts at once, what they share only once: the tokens of several texts as one tree.

Choices of one question share the question, sentences of a minimal pair their beginning. Laid out depth first, a tree
of tokens needs no cache and no copies: a token's position is its depth, and it sees exactly those before it whose
subtree it lies in. So one pass over the tree gives each token the state it has in every text that holds it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lilliput.model.decoder import Decoder
from lilliput.model.depths_cache import routed_tree
from lilliput.model.generate import Generator, _Layer
from lilliput.model.loss import chunk_rows


class TreeReader(Generator):
    """A decoder ready to read trees of tokens; its numbers are the decoder's up to rounding."""

    def __init__(self, model: Decoder) -> None:
        super().__init__(model, batch=0)

    @torch.inference_mode()
    def read(self, ids_BT: Tensor, depth_BT: Tensor, end_BT: Tensor) -> Tensor:
        """The states_ND, N = B·T, that the head reads.

        ids_BT: trees laid out depth first. depth_BT: each token's position in its text, below the context.
        end_BT: where its subtree ends, so that token i sees token j if j ≤ i < end_j. Filling after a tree has
        end_j = j + 1, which nothing else sees.
        """
        batch, length = ids_BT.shape
        at_T = torch.arange(length, device=ids_BT.device)
        seen_BTT = (at_T[:, None] >= at_T) & (at_T[:, None] < end_BT[:, None])
        hidden = self.embedding.new_full((), -torch.inf)
        mask_B1TT = torch.where(seen_BTT, self.embedding.new_zeros(()), hidden)[:, None]
        turn_BT1E = self.turn_TE[depth_BT][:, :, None]
        x_ND = F.embedding(ids_BT, self.embedding).view(batch * length, -1)
        for layer in self.layers:
            if layer.route is not None:
                x_ND = routed_tree(self, x_ND, layer, layer.route, turn_BT1E, mask_B1TT)
                continue
            x_ND = self._attend_tree(x_ND, layer, turn_BT1E, mask_B1TT)
            x_ND = self._transform(x_ND, layer)
        return self._norm(x_ND)

    @torch.inference_mode()
    def predict(self, states_ND: Tensor, at_M: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probabilities of the targets in fp32, whether each is the likeliest token), (M,) both.

        at_M: the states that predict them. The logits of a chunk at a time exist.
        """
        log_p, best = [states_ND.new_empty(0, dtype=torch.float32)], [at_M.new_empty(0, dtype=torch.bool)]
        rows = chunk_rows(self.head.shape[0], states_ND.device)
        for at_C, targets_C in zip(torch.split(at_M, rows), torch.split(targets_M, rows), strict=True):
            logits_CV = self.linear(states_ND[at_C], self.head, None).float()
            picked_C = logits_CV.gather(1, targets_C[:, None])[:, 0]
            log_p.append(picked_C - logits_CV.logsumexp(1))
            best.append(picked_C >= logits_CV.amax(1))
        return torch.cat(log_p), torch.cat(best)

    def _attend_tree(self, x_ND: Tensor, layer: _Layer, turn_BT1E: Tensor, mask_B1TT: Tensor) -> Tensor:
        """Attention with a mask, and positions of each token's own; else as `Generator._attend`."""
        heads = self.config.heads
        shape = mask_B1TT.shape[0], mask_B1TT.shape[-1]
        qk_BTHE, v_BTKE, inner_NS = self._project(x_ND, layer, shape, turn_BT1E)
        q_BHTE, k_BKTE, v_BKTE = (
            part.transpose(1, 2) for part in (qk_BTHE[:, :, :heads], qk_BTHE[:, :, heads:], v_BTKE)
        )
        out_BHTE = F.scaled_dot_product_attention(
            q_BHTE, k_BKTE, v_BKTE, attn_mask=mask_B1TT, enable_gqa=heads != self.config.kv_heads
        )
        return self._rejoin(x_ND, out_BHTE.transpose(1, 2).reshape(x_ND.shape[0], -1), inner_NS, layer)
