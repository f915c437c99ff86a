"""Tokenizers: trained on the corpus or loaded, lossless, and tied to the shards they made."""
