"""Early exit: what is written token by token from a cache is what reading the whole text at once says."""

import pytest
import torch
from model_support import SHAPES, config, decoder, ids
from torch.nn import functional as F

from lilliput.errors import ConfigError, ModelError
from lilliput.model.early_exit import ExitGenerator, ExitReader, Exits
from lilliput.model.generate import generate

# Which layers share weights is said for a depth of their own.
DEEP = {name: shape if "share" in shape else {**shape, "depth": 4} for name, shape in SHAPES.items()}


def middle(model, layers=None) -> Exits:
    """Exits at the median of what the first one is sure of, so that tokens leave here and there."""
    reader = ExitReader(model, Exits.of(model.config, 1.0, layers))
    first = model.model.layers[0]
    states = model.model.norm(first(model.model.embed_tokens(ids(2, 30)), *model.model.turns(30)))
    _, sure = reader._judge(states.flatten(0, 1), torch.zeros(60, dtype=torch.long))
    return Exits.of(model.config, sure.quantile(0.7).item(), layers)


@pytest.mark.parametrize("shape", DEEP.values(), ids=DEEP)
def test_writing_from_the_cache_is_reading_the_whole(shape):
    model = decoder(**shape).eval()
    exits = middle(model, [1, 3] if shape.get("attention_bias") else None)
    prompt = ids(1, 5, seed=3)
    writer = ExitGenerator(model, exits)
    logits = [writer.feed(prompt)]
    text = ids(1, 45, seed=4)
    used = []
    for token in text[0, :-1]:
        before = writer.used
        logits.append(writer.feed(token.view(1, 1)))
        used.append(writer.used - before)
    nats = F.cross_entropy(torch.cat(logits), text[0], reduction="none")
    whole = torch.cat((prompt, text), 1)
    targets = torch.cat((torch.full((1, 4), -100), text), 1)
    reader = ExitReader(model, exits)
    found = reader(whole[:, :-1], targets, begin=5)
    torch.testing.assert_close(found[0, 4:], nats, atol=2e-4, rtol=0)
    assert (reader.scored, reader.used) == (45, model.config.depth + sum(used))
    assert len(set(used)) > 1, "no token leaves, or all at one place"


def test_a_plain_loop_over_layers_says_the_same():
    model = decoder(depth=3).eval()
    exits = middle(model)
    text = ids(1, 12, seed=5)
    left = {}
    x = model.model.embed_tokens(text)
    for done, layer in enumerate(model.model.layers, 1):
        out = layer(x, *model.model.turns(12))
        for at in range(12):
            if at not in left:
                x = x.clone()
                x[0, at] = out[0, at]
                p = torch.softmax(model.model.norm(x[0, at]) @ model.head_weight().T, -1)
                if done == 3 or p.max() >= exits.threshold:
                    left[at] = (done, -p[7].log().item())
    found = ExitReader(model, exits)
    nats = found(text, torch.full((1, 12), 7))
    assert nats[0].tolist() == pytest.approx([left[at][1] for at in range(12)], abs=1e-4)
    assert found.layers_used() == pytest.approx(sum(done for done, _ in left.values()) / 12)


def test_the_extremes_are_all_layers_and_one():
    model = decoder(depth=4).eval()
    text = ids(3, 30)
    targets = ids(3, 30, seed=1)
    never, at_once = (ExitReader(model, Exits(threshold, (1, 2, 3))) for threshold in (1.1, 1e-9))
    torch.testing.assert_close(never(text, targets), model(text, targets, reduction="none"), atol=1e-4, rtol=0)
    assert never.layers_used() == 4
    at_once(text, targets)
    assert at_once.layers_used() == 1
    shape = model.config
    layer, head = shape.layer_matrix_parameters(), shape.vocab_size * shape.width
    filled = 3 * 2 * shape.kv_heads * shape.head_dim * shape.width
    assert at_once.arithmetic() == pytest.approx((layer + head + filled) / (4 * layer + head))
    assert never.arithmetic() == pytest.approx((4 * layer + 4 * head) / (4 * layer + head))


def test_only_scored_positions_are_counted():
    model = decoder(depth=4).eval()
    targets = torch.full((1, 20), -100)
    targets[0, -5:] = 3
    reader = ExitReader(model, Exits(1e-9, (2,)))
    nats = reader(ids(1, 20), targets)
    assert (nats[0, :-5] == 0).all()
    assert (nats[0, -5:] > 0).all()
    assert (reader.scored, reader.used, reader.checked) == (5, 10, 5)


def test_writing_goes_on_beyond_the_context_and_repeats_with_a_seed():
    model = decoder(depth=4, context=16).eval()
    exits = middle_of(model)
    texts = []
    for _ in range(2):
        writer = ExitGenerator(model, exits)
        new = list(generate(model, ids(1, 4), 50, temperature=0.8, seed=2, writer=writer))
        texts.append(torch.cat(new).tolist())
        assert writer.tokens == 50
        assert 50 <= writer.used < 200
    assert texts[0] == texts[1]
    plain = [int(new) for new in generate(model, ids(1, 4), 50, temperature=0)]
    never = generate(model, ids(1, 4), 50, temperature=0, writer=ExitGenerator(model, Exits(1.1, (1, 2))))
    assert [int(new) for new in never] == plain


def middle_of(model) -> Exits:
    return Exits.of(model.config, 0.2)


@pytest.mark.parametrize(
    ("threshold", "layers", "depth", "message"),
    [
        (0.0, None, 3, "0 is no probability"),
        (1.2, None, 3, "1.2 is no probability"),
        (float("nan"), None, 3, "no probability"),
        (0.5, [3], 3, "no exit after layer 3: the model has 3 layers"),
        (0.5, [0, 1], 3, "no exit after layer 0"),
        (0.5, None, 1, "one layer"),
    ],
)
def test_exits_that_are_none_are_refused(threshold, layers, depth, message):
    with pytest.raises(ConfigError, match=message):
        Exits.of(config(depth=depth), threshold, layers)


def test_a_reader_needs_targets():
    model = decoder(depth=2)
    with pytest.raises(ModelError):
        ExitReader(model, Exits.of(model.config, 0.5))(ids(1, 4))
