"""The byte-pooled model: a likelihood over units, the same however it is batched, cached, counted or loaded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lilliput.corpus.unit_rows import DOCUMENT, END, apart, joined, rows_of
from lilliput.errors import ModelError
from lilliput.export.hf import load_model_dir, save_model_dir
from lilliput.model.build import build
from lilliput.model.byte_generate import UnitGenerator, allowed, generate_units
from lilliput.model.byte_pool import BytePool
from lilliput.model.byte_pool_config import BytePoolConfig
from lilliput.model.init import initialise
from lilliput.model.spaces import shapes
from lilliput.tokenizer.units import UnitTokenizer

TEXT = "Once upon a time, Alice’s antidisestablishmentarianism cost 12345. चा 你好!\n\n  End"


def config(**changes: object) -> BytePoolConfig:
    given = {"depth": 2, "width": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 48, "context": 32}
    given["hashes"] = 64
    return BytePoolConfig(**{**given, **changes})


def model(seed: int = 0, **changes: object) -> BytePool:
    made = build(config(**changes))
    assert isinstance(made, BytePool)
    initialise(made, seed)
    return made.eval()


def rows(text: str, limit: int = 12) -> torch.Tensor:
    units = UnitTokenizer(limit)
    return torch.from_numpy(units.positions([DOCUMENT, *units.encode(text), DOCUMENT]))


@pytest.mark.parametrize("byte_head", ["autoregressive", "parallel"])
@torch.no_grad()
def test_the_strings_of_a_unit_have_a_probability_of_one_together(byte_head: str) -> None:
    made = model(unit=2, byte_head=byte_head)
    states = made(rows("It was", limit=2)[None])[0]
    strings = [[DOCUMENT, 0], *([byte + 1, END] for byte in range(256))]
    strings += [[first + 1, second + 1] for first in range(256) for second in range(256)]
    every = torch.tensor(strings)
    nats = made.byte_decoder.nats(states[2].expand(len(every), -1), every)
    assert (-nats.double()).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"pool": "mean"}, {"byte_head": "parallel"}, {"unit": 7}])
@torch.no_grad()
def test_a_unit_is_scored_alike_alone_and_among_others(changes: dict[str, object]) -> None:
    made = model(**changes)
    read = rows(TEXT, made.config.unit)
    whole = made(read[None, :-1], read[None, 1:], reduction="none")[0]
    states = made(read[None, :-1])[0]
    for place in (0, 3, 8):
        alone = made.byte_decoder.nats(states[place : place + 1], read[place + 1 : place + 2])
        assert torch.allclose(alone[0], whole[place], atol=1e-5)
    # Filling beside and behind changes nothing, and weighs nothing.
    filled = F.pad(read[None, :-1], (0, 0, 0, 3)).repeat(2, 1, 1)
    targets = F.pad(read[None, 1:], (0, 0, 0, 3), value=-100).repeat(2, 1, 1)
    again = made(filled, targets, reduction="none")
    assert torch.allclose(again[1, : len(whole)], whole, atol=1e-5)
    assert not again[:, len(whole) :].any()
    assert made(filled, targets).item() == pytest.approx(2 * whole.sum().item(), rel=1e-5)


@torch.no_grad()
def test_the_future_is_not_seen() -> None:
    made = model()
    one, two = rows("She had a cat"), rows("She had a dog")
    before = made(one[None, :-1], one[None, 1:], reduction="none")[0]
    other = made(two[None, :-1], two[None, 1:], reduction="none")[0]
    assert torch.allclose(before[:3], other[:3], atol=1e-6)
    assert not torch.allclose(before[3], other[3], atol=1e-3)


@torch.no_grad()
def test_judge_agrees_with_the_loss() -> None:
    made = model()
    read = rows(TEXT)
    states = made(read[None, :-1])[0]
    log_p, best = made.byte_decoder.judge(states, read[1:])
    assert torch.allclose(-log_p, made.byte_decoder.nats(states, read[1:]), atol=1e-4)
    assert best.shape == log_p.shape


@settings(max_examples=12, deadline=None)
@given(
    width=st.sampled_from([16, 32, 64, 96]),
    unit=st.integers(4, 16),
    depth=st.integers(1, 3),
    encoder=st.integers(0, 2),
    decoder=st.integers(1, 3),
    byte_width=st.sampled_from([0, 32, 64]),
    hashes=st.sampled_from([-1, 0, 300]),
    pool=st.sampled_from(["attention", "mean"]),
    byte_head=st.sampled_from(["autoregressive", "parallel"]),
)
def test_parameters_are_counted_exactly(width: int, encoder: int, decoder: int, **more: object) -> None:
    shape = config(width=width, encoder_depth=encoder, decoder_depth=decoder, **more)
    built = build(shape)
    assert sum(p.numel() for p in built.parameters()) == shape.parameters()
    assert {name: tuple(p.shape) for name, p in built.named_parameters()} == shapes(shape)
    core = [p.numel() for name, p in built.named_parameters() if name.startswith(("model.layers", "model.norm"))]
    assert shape.local_parameters() == shape.parameters() - sum(core)


@pytest.mark.parametrize("width", [256, 288, 320, 384, 512, 640, 768, 1024, 2048])
def test_input_and_output_take_a_tenth_of_the_tables_they_stand_for(width: int) -> None:
    shape = config(width=width, heads=width // 32, kv_heads=width // 32, head_dim=32, hashes=-1)
    assert shape.hashes
    assert shape.replaced_share() <= 0.10


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"unit": 1}, "units of 1 bytes"),
        ({"byte_width": 48}, "byte_width 48"),
        ({"pool": "max"}, "pool is 'max'"),
        ({"byte_head": "x"}, "byte_head is 'x'"),
        ({"decoder_depth": 0}, "needs a layer"),
        ({"hashes": -2}, "hashes is -2"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, object], part: str) -> None:
    with pytest.raises(ModelError, match=part):
        config(**changes)


@torch.no_grad()
def test_the_cache_of_units_changes_nothing() -> None:
    made = model()
    read = rows(TEXT)[:-1]
    plain = made(read[None])[0]
    writer = UnitGenerator(made)
    assert torch.allclose(writer.feed(read[None, :5])[0], plain[4], atol=1e-5)
    for place in range(5, len(read)):
        assert torch.allclose(writer.feed(read[None, place : place + 1])[0], plain[place], atol=1e-4)


@pytest.mark.parametrize("byte_head", ["autoregressive", "parallel"])
@pytest.mark.parametrize("limit", [4, 12])
def test_what_is_written_is_valid_utf8_and_can_be_read_again(limit: int, byte_head: str) -> None:
    made = model(unit=limit, byte_head=byte_head, context=16)
    for seed in range(3):
        symbols = list(generate_units(made, rows("Oh", limit)[:-1], 40, temperature=1.0, seed=seed))
        raw = bytes(symbol - 1 for symbol in symbols if symbol < END)
        assert raw.decode("utf-8").encode() == raw
        lengths, _ = apart(np.array(symbols))
        assert len(lengths) == 40 or symbols[-1] == DOCUMENT
        assert lengths.max() <= limit
    assert symbols == list(generate_units(made, rows("Oh", limit)[:-1], 40, temperature=1.0, seed=2))


@torch.no_grad()
def test_greedy_writing_takes_the_likeliest_byte_that_may_stand() -> None:
    made = model(context=64)
    read = rows("Oh dear")[:-1]
    symbols = list(generate_units(made, read, 3, temperature=0))
    row: list[int] = []
    state = made(read[None])[0, -1:]
    for symbol in symbols[: 1 + next(place for place, symbol in enumerate(symbols) if symbol >= END)]:
        if len(row) == made.config.unit:
            break
        logits, _ = made.byte_decoder.logits(state, torch.tensor([row + [END] + [0] * (11 - len(row))]))
        may = allowed(row, 12)
        assert symbol == max(may, key=lambda one: logits[len(row), one].item())
        row.append(symbol)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3))
def test_every_character_may_be_written(text: str) -> None:
    raw = text.encode()
    for place in range(len(raw)):
        assert raw[place] + 1 in allowed([byte + 1 for byte in raw[:place]], 12)
    assert END in allowed([byte + 1 for byte in raw], 13)


def test_only_characters_may_be_written() -> None:
    def complete(written: list[int]) -> bool:
        try:
            bytes(symbol - 1 for symbol in written).decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True

    for first in (0x00, 0x7F, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF3, 0xF4):
        written = [first + 1]
        while not complete(written):
            may = allowed(written, 4)
            assert END not in may
            assert DOCUMENT not in may
            written.append(may[-1])
        assert all(lead < 0xC3 for lead in allowed([66, 66, 66], 4) if lead < END)


def test_rows_and_flat_runs_are_the_same_text() -> None:
    units = UnitTokenizer(5)
    symbols = units.encode_arrays(["Hello, strange world"])[0]
    lengths, raw = apart(symbols)
    assert (joined(lengths, raw) == symbols).all()
    assert rows_of(lengths, raw, 5).shape == (len(lengths), 5)
    assert units.decode(symbols.tolist()) == "Hello, strange world"


def test_gradients_reach_every_tensor() -> None:
    made = model()
    read = rows(TEXT)
    made(read[None, :-1], read[None, 1:]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("changes", [{}, {"byte_head": "parallel", "pool": "mean", "unit": 6, "hashes": 0}])
@torch.no_grad()
def test_transformers_loads_it_and_gives_the_same_numbers(tmp_path: Path, changes: dict[str, object]) -> None:
    transformers = pytest.importorskip("transformers")
    made = model(**changes)
    folder = save_model_dir(tmp_path / "model", made, UnitTokenizer(made.config.unit), {})
    ours, units = load_model_dir(folder)
    assert ours.config == made.config
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    reads = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    symbols = reads(TEXT)["input_ids"]
    assert symbols == [units.bos_id, *units.encode(TEXT)]
    assert reads.decode(symbols, skip_special_tokens=True) == TEXT
    assert reads("a<|end|>b")["input_ids"] == [units.bos_id, *units.encode("a<|end|>b")]
    ids = torch.tensor([symbols])
    logits = theirs(ids).logits
    nats = -torch.log_softmax(logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0].sum()
    read = torch.from_numpy(units.positions(symbols))[None]
    assert nats.item() == pytest.approx(ours(read[:, :-1], read[:, 1:]).item(), rel=1e-5)
    loss = theirs(ids, labels=ids).loss.item()
    assert loss == pytest.approx(nats.item() / (len(symbols) - 1), rel=1e-5)
    both = reads(["Oh", "Oh dear me"], return_tensors="pt", padding=True)
    padded = theirs(**both).logits
    alone = theirs(torch.tensor([reads("Oh")["input_ids"]])).logits
    seen = both["attention_mask"][0].bool()
    assert torch.allclose(padded[0, seen], alone[0], atol=1e-4)
    written = theirs.generate(ids[:, :9], max_new_tokens=5, do_sample=False)
    assert written.shape == (1, 14)
