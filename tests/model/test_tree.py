"""Trees of tokens: each text in one has the states, and the predictions, that the decoder gives it alone."""

import pytest
import torch
from model_support import SHAPES, decoder, ids

from lilliput.model.tree import TreeReader

# 0-1-2-3 and 0-1-4, then 5-6 by itself: (parent's depth decides the position, the end where its subtree does)
DEPTH = [0, 1, 2, 3, 2, 0, 1, 0]
END = [5, 5, 4, 4, 5, 7, 7, 8]
TEXTS = ([0, 1, 2, 3], [0, 1, 4], [5, 6])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_text_of_a_tree_is_read_as_if_alone(shape):
    model = decoder(seed=3, **SHAPES[shape]).eval()
    reader = TreeReader(model)
    ids_BT = ids(2, len(DEPTH), seed=1)
    states_ND = reader.read(ids_BT, *(torch.tensor([row, row]) for row in (DEPTH, END)))
    for nodes in TEXTS:
        texts_BT = torch.nn.functional.pad(ids_BT[:, nodes], (0, 4 - len(nodes)))
        with torch.no_grad():
            log_p_BTV = torch.log_softmax(model(texts_BT), -1)
        for row in range(2):
            log_p_TV = log_p_BTV[row, : len(nodes)]
            targets_T = ids(1, len(nodes), seed=2)[0]
            at_T = torch.tensor(nodes) + row * len(DEPTH)
            found_T, best_T = reader.predict(states_ND, at_T, targets_T)
            torch.testing.assert_close(found_T, log_p_TV.gather(1, targets_T[:, None])[:, 0], atol=2e-5, rtol=1e-5)
            assert not best_T.any() or (log_p_TV.argmax(1) == targets_T)[best_T].all()
            _, sure_T = reader.predict(states_ND, at_T, log_p_TV.argmax(1))
            assert sure_T.all()


def test_the_chunks_of_the_head_change_nothing(monkeypatch):
    model = decoder().eval()
    reader = TreeReader(model)
    length = 50
    states_ND = reader.read(ids(1, length), torch.arange(length)[None], torch.full((1, length), length))
    at_M, targets_M = torch.arange(length).repeat(3), ids(1, 3 * length, seed=5)[0]
    whole = reader.predict(states_ND, at_M, targets_M)
    monkeypatch.setattr("lilliput.model.tree.chunk_rows", lambda *_: 16)
    for one, other in zip(whole, reader.predict(states_ND, at_M, targets_M), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    nothing = reader.predict(states_ND, at_M[:0], targets_M[:0])
    assert [part.shape for part in nothing] == [(0,), (0,)]
