"""A tiny model from a bigger one: which of its parts matter, and what is made of them."""
