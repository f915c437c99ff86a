import pytest
from model_support import SHAPES, config, decoder

from lilliput.model import spaces
from lilliput.model.spaces import SPACES, shapes, sizes


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_every_tensor_is_declared_with_its_shape_and_nothing_else_is(changes):
    model = decoder(**changes)
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes(model.config) == state
    assert set(spaces(model)) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_axes_name_known_spaces_and_existing_layers(changes):
    model = decoder(**changes)
    size = sizes(model.config)
    assert set(size) == set(SPACES)
    for name, axes in spaces(model).items():
        places = [axis.at for axis in axes if axis.at is not None]
        assert all(axis.space in SPACES for axis in axes)
        assert places == ([int(name.split(".")[2])] if ".layers." in name else [])


def test_a_declaration_follows_the_size_of_its_space():
    """Growing one space changes exactly the dimensions that declare it."""
    grown = {"vocab": {"vocab_size": 98}, "ffn": {"ffn": 71}, "hidden": {"width": 80}, "layer": {"depth": 4}}
    grown |= {"head": {"heads": 8, "kv_heads": 2}, "kv_head": {"heads": 4, "kv_heads": 4}}
    grown |= {"bottleneck": {"shortcut": 7}}
    base = {"heads": 4, "kv_heads": 2, "width": 40, "head_dim": 8, "tied": False, "family": "pangu", "shortcut": 6}
    for space, changes in grown.items():
        before, after = config(**base), config(**{**base, **changes})
        old, new = sizes(before), sizes(after)
        assert {name for name in old if old[name] != new[name]} == {space}
        model, shape = decoder(**base), shapes(after)
        for name, axes in spaces(model).items():
            dims = [axis for axis in axes if axis.at is None]
            for axis, was, now in zip(dims, shapes(before)[name], shape[name], strict=True):
                assert (was != now) == (axis.space == space), (name, space)
