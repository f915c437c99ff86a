import pytest
import torch
from model_support import SHAPES, decoder, ids
from test_decoder import peer

from lilliput.errors import ConfigError, ModelError
from lilliput.model.generate import Generator, choose, generate


def text(model, prompt_BT, max_new, **how) -> torch.Tensor:
    return torch.stack(list(generate(model, prompt_BT, max_new, **how)), dim=1)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("batch", [1, 3])
def test_greedy_writes_what_transformers_writes(changes, batch):
    model, prompt_BT = decoder(**changes), ids(batch, 7, seed=5)
    theirs = peer(model).generate(
        prompt_BT,
        attention_mask=torch.ones_like(prompt_BT),
        max_new_tokens=50,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(text(model, prompt_BT, 50, temperature=0), theirs[:, 7:])


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_cached_logits_equal_the_decoder(changes):
    model, ids_BT = decoder(**changes), ids(2, 40)
    writer = Generator(model, 2)
    with torch.no_grad():
        whole_BTV = model(ids_BT)
    torch.testing.assert_close(writer.feed(ids_BT[:, :30]), whole_BTV[:, 29], atol=2e-4, rtol=0)
    for at in range(30, 40):
        torch.testing.assert_close(writer.feed(ids_BT[:, at : at + 1]), whole_BTV[:, at], atol=2e-4, rtol=0)


def test_past_the_context_the_last_half_is_read_again():
    model, prompt_BT = decoder(context=16), ids(2, 6)
    written = text(model, prompt_BT, 40, temperature=0)
    seen, expected = prompt_BT, []
    with torch.no_grad():
        for _ in range(40):
            if seen.shape[1] > 16:
                seen = seen[:, -8:]
            new_B = model(seen)[:, -1].argmax(-1)
            expected.append(new_B)
            seen = torch.cat((seen, new_B[:, None]), dim=1)
    assert torch.equal(written, torch.stack(expected, dim=1))
    long_BT = ids(2, 50)
    assert torch.equal(
        text(model, long_BT, 5, temperature=0), text(model, long_BT[:, -16:], 5, temperature=0)
    )


def test_a_context_of_one_position():
    assert text(decoder(context=1), ids(2, 3), 4, temperature=0).shape == (2, 4)


def test_a_seed_decides():
    model, prompt_BT = decoder(), ids(2, 4)
    how = {"temperature": 1.3, "top_k": 30, "top_p": 0.95}
    first = text(model, prompt_BT, 40, seed=1, **how)
    assert torch.equal(first, text(model, prompt_BT, 40, seed=1, **how))
    assert not torch.equal(first, text(model, prompt_BT, 40, seed=2, **how))


def test_stop_ids_end_rows_and_then_the_text():
    model, prompt_BT = decoder(), ids(3, 4)
    free = text(model, prompt_BT, 30, temperature=0)
    stop = int(free[0, 3])
    stopped = text(model, prompt_BT, 30, temperature=0, stop_ids=(stop,))
    for row, plain in zip(stopped, free, strict=True):
        at = (plain == stop).nonzero()
        end = int(at[0]) if len(at) else 30
        assert torch.equal(row[: end + 1], plain[: end + 1][: len(row)])
        assert (row[end:] == stop).all()
    alone = text(model, prompt_BT[:1], 30, temperature=0, stop_ids=(stop,))
    assert alone.shape[1] == int((free[0] == stop).nonzero()[0]) + 1


def test_choices_follow_the_probabilities():
    logits_BV = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20_000, 4)
    random = torch.Generator().manual_seed(0)

    def shares(temperature, top_k, top_p):
        drawn = choose(logits_BV, temperature, top_k, top_p, random)
        return torch.bincount(drawn, minlength=4) / len(drawn)

    full = torch.softmax(logits_BV[0], -1)
    torch.testing.assert_close(shares(1.0, None, None), full, atol=0.02, rtol=0)
    torch.testing.assert_close(
        shares(2.0, None, None), torch.softmax(logits_BV[0] / 2, -1), atol=0.02, rtol=0
    )
    two = torch.cat((full[:2] / full[:2].sum(), torch.zeros(2)))
    torch.testing.assert_close(shares(1.0, 2, None), two, atol=0.02, rtol=0)
    # 0.644 and 0.237: the second is still needed to hold 0.7, the third is not.
    torch.testing.assert_close(shares(1.0, None, 0.7), two, atol=0.02, rtol=0)
    assert shares(1.0, None, 1e-9)[0] == 1
    assert shares(0.0, None, None)[0] == 1
    assert shares(1e-6, None, None)[0] == 1


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"temperature": -1.0}, ConfigError),
        ({"temperature": float("nan")}, ConfigError),
        ({"top_p": 0.0}, ConfigError),
        ({"top_p": 1.5}, ConfigError),
        ({"top_k": 0}, ConfigError),
        ({"max_new": -1}, ConfigError),
        ({"prompt": torch.zeros(1, 0, dtype=torch.long)}, ModelError),
        ({"prompt": torch.tensor([[97]])}, ModelError),
    ],
)
def test_impossible_requests_are_refused_at_once(how, error):
    prompt, max_new = how.pop("prompt", ids(1, 3)), how.pop("max_new", 3)
    with pytest.raises(error):
        generate(decoder(), prompt, max_new, **how)


def test_nothing_asked_nothing_written():
    assert list(generate(decoder(), ids(1, 3), 0)) == []
