"""What the end-to-end tests share by import."""

# Small enough for seconds on two cores, large enough to learn something.
SMALL = ("budget.params=60k", "tokenizer.vocab_size=384", "train.tokens=30k", "evaluate.bytes=20k")
