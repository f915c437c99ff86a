"""The masked objective: what is chosen, what is shown, and that a killed run goes on to the last bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.corpus.shards import Shards, pack
from lilliput.evaluate.masked import masked_loss
from lilliput.model.encoder import Encoder, initialise_encoder
from lilliput.model.encoder_config import EncoderConfig
from lilliput.tokenizer.special import Specials
from lilliput.train.config import TrainConfig
from lilliput.train.loop import train
from lilliput.train.masked import Masked, Pieces, corrupt, plain_pieces, trimmed

SPECIAL = Specials(pad=0, cls=2, sep=3, mask=4, never=(0, 1, 2, 3, 4))
SHAPE = EncoderConfig(
    vocab_size=40, depth=1, width=16, heads=2, ffn=32, context=12, pad_id=0, cls_id=2, sep_id=3, mask_id=4
)


def _shards(folder: Path, lengths: list[int]) -> Shards:
    rng = np.random.default_rng(0)
    texts = [" " * length for length in lengths]
    ids = iter([rng.integers(5, 40, length).tolist() for length in lengths])
    folder.mkdir(parents=True, exist_ok=True)
    pack(
        texts, lambda batch: [next(ids) for _ in batch], bos=2, eos=3, vocab_size=40, tokenizer_hash="t", out=folder,
        split="train",
    )  # fmt: skip
    return Shards(folder, "train", "t")


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_windows_hold_every_token_once_and_never_two_documents(tmp_path_factory, lengths):
    shards = _shards(tmp_path_factory.mktemp("s"), lengths)
    pieces = Pieces(shards, 12, SPECIAL)
    rows = pieces.batch(np.arange(pieces.windows(12)), 12)
    assert rows.shape == (sum(-(-length // 10) for length in lengths), 13)
    found = [row[row >= 0][1:-2].tolist() for row in rows]  # without [CLS], [SEP] and the free column
    wanted = [token for token in shards.tokens.tolist() if token not in (2, 3)]
    assert [token for piece in found for token in piece] == wanted
    assert all(row[0] == 2 and 3 in row for row in rows.tolist())
    assert pieces.tokens == sum((row[:-1] >= 0).sum() for row in rows)


def test_the_first_windows_alone(tmp_path):
    shards = _shards(tmp_path, [25, 4])
    pieces = Pieces(shards, 12, SPECIAL, first=True)
    assert pieces.windows(12) == 2
    assert pieces.share == (10 + 4) / 29
    assert pieces.batch(np.array([0]), 12)[0, 1:11].tolist() == shards.tokens[1:11].tolist()


def test_what_is_masked_follows_the_published_shares():
    ids = torch.randint(5, 40, (200, 100), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, 60], ids[:, 80:] = 2, 1, -100
    torch.manual_seed(1)
    shown, targets = corrupt(ids, plain_pieces(40, SPECIAL), 4, 0.15)
    chosen = targets >= 0
    assert not chosen[:, 0].any()
    assert not chosen[:, 60].any()
    assert not chosen[:, 80:].any()
    assert torch.equal(targets[chosen], ids[chosen])
    assert torch.equal(shown[~chosen], ids[~chosen])
    assert chosen.sum() / (200 * 78) == pytest.approx(0.15, abs=0.01)
    as_mask = (shown[chosen] == 4).float().mean()
    assert as_mask == pytest.approx(0.8, abs=0.02)
    kept = (shown[chosen] == ids[chosen]).float().mean()
    assert kept == pytest.approx(0.1 + 0.1 / 35, abs=0.02)
    assert set(shown[chosen].tolist()).isdisjoint({0, 1, 2, 3})


def test_padding_counts_nothing():
    model = Encoder(SHAPE).eval()
    initialise_encoder(model, 0)
    ids = torch.randint(5, 40, (3, 13))
    ids[:, 8:12], ids[:, 12] = -100, 0
    alone, filled = Masked(SPECIAL, 40), Masked(SPECIAL, 40)
    torch.manual_seed(3)
    one = alone.loss(model, ids) / (3 * 12)
    torch.manual_seed(3)
    fuller = filled.loss(model, torch.cat((ids, torch.full((2, 13), -100)))) / (3 * 12)
    assert trimmed(ids[:, :-1]).shape[1] == 8
    assert one.item() == pytest.approx(np.log(40), abs=0.3)  # nats a masked token, whatever the padding
    assert torch.isfinite(fuller)
    assert fuller.item() == pytest.approx(np.log(40), abs=0.3)


def _train(folder: Path, shards: Shards, shape: EncoderConfig, stop: int | None = None) -> Encoder:
    model = Encoder(shape)
    initialise_encoder(model, 0)
    config = TrainConfig(
        steps=12, batch_sequences=5, micro_sequences=3, context=12, lr=5e-3, min_lr=5e-4, warmup_steps=2, seed=3,
        objective="masked", save_every=4,
    )  # fmt: skip

    class Killed(Masked):
        def begin(self, model, step):
            if step == stop:
                raise KeyboardInterrupt

    train(model, Pieces(shards, 12, SPECIAL), config, folder, device=torch.device("cpu"), objective=Killed(SPECIAL, 40))
    return model


@pytest.mark.parametrize("conv", [0, 1])
def test_a_killed_run_goes_on_to_the_last_bit(tmp_path, conv):
    shape = replace(SHAPE, conv=conv, channels=2)
    shards = _shards(tmp_path / "s", [30, 4, 17, 9, 22])
    whole = _train(tmp_path / "whole", shards, shape)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "cut", shards, shape, stop=7)
    again = _train(tmp_path / "cut", shards, shape)
    other = again.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in whole.state_dict().items())


def test_it_learns_what_can_be_told_from_the_surroundings(tmp_path):
    rng = np.random.default_rng(0)

    def chain(length=14):
        """Each token follows from the one before: x → 5·x + 7 mod 64."""
        found = [int(rng.integers(0, 64))]
        while len(found) < length:
            found.append((5 * found[-1] + 7) % 64)
        return [5 + one for one in found]

    shape = replace(SHAPE, vocab_size=69, width=64, ffn=256, context=16, init="fan-in")
    ids = iter([chain() for _ in range(500)])
    pack(
        [" "] * 500, lambda batch: [next(ids) for _ in batch], bos=2, eos=3, vocab_size=69, tokenizer_hash="t",
        out=tmp_path, split="train",
    )  # fmt: skip
    model = Encoder(shape)
    initialise_encoder(model, 0)
    config = TrainConfig(
        steps=300, batch_sequences=32, micro_sequences=32, context=16, lr=3e-3, min_lr=3e-4, warmup_steps=30,
        beta2=0.99, objective="masked", save_every=300,
    )  # fmt: skip
    pieces = Pieces(Shards(tmp_path, "train", "t"), 16, SPECIAL)
    train(model, pieces, config, tmp_path / "r", device=torch.device("cpu"), objective=Masked(SPECIAL, 69))
    held = torch.tensor([[2, *chain(), 3] for _ in range(100)])
    score = masked_loss(model, held, SPECIAL, 0.15, title=None)
    assert score.accuracy > 0.5
    assert score.low < score.value < score.high < 3 < np.log(64)
