"""Training a byte-level BPE on the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from lilliput.corpus.documents import Documents
from lilliput.errors import TokenizerError
from lilliput.progress import Progress, count, say, warn
from lilliput.tokenizer.check import check_lossless
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.sample import DISTINCT_BYTES, SAMPLE_BYTES, Sample, draw, short_runs

# Begins and ends a document: one token does both, as in GPT-2, so no number is spent on a second.
END_OF_TEXT = "<|endoftext|>"
SMALLEST = 256 + 1


def train_tokenizer(
    documents: Documents | Iterable[str],
    vocab_size: int,
    *,
    sample_bytes: int = SAMPLE_BYTES,
    distinct_bytes: int = DISTINCT_BYTES,
) -> Tokenizer:
    """A byte-level BPE of `vocab_size` pieces, the 256 bytes and one special token among them.

    The pattern is GPT-2's, which other software knows. Every byte is a piece, so any text can be encoded and
    comes back exactly; that is checked. A sample is used (its size is printed); where it has too few pairs
    that occur twice, the vocabulary is smaller than asked and a warning says so.
    Raises TokenizerError if `vocab_size` is under 257 or there is no text.
    """
    if vocab_size < SMALLEST:
        reason = f"{vocab_size} pieces are too few: 256 bytes and one special token are the least"
        raise TokenizerError(reason, where="tokenizer.vocab_size", mend=f"tokenizer.vocab_size={SMALLEST} or more")
    sample = draw(documents, sample_bytes, distinct_bytes)
    if not sample.bytes:
        raise TokenizerError("there is no text to train a tokenizer on", where="corpus", mend="name more text")
    used = f"{count(sample.bytes)}B of {count(sample.corpus_bytes)}B of text"
    say(f"tokenizer: learning {vocab_size} pieces from {used}")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(feed(sample), trainer)
    number = backend.get_vocab()[END_OF_TEXT]
    tokenizer = Tokenizer(backend, number, number)
    if tokenizer.vocab_size < vocab_size:
        warn(f"the text holds pairs for {tokenizer.vocab_size} pieces only, not {vocab_size}; that many it is")
    check_lossless(tokenizer, (fragment.decode() for fragment in sample.fragments))
    return tokenizer


def feed(sample: Sample) -> Iterator[str]:
    """The sample as the trainers take it, with progress."""
    done = 0
    with Progress("learning pieces", sample.bytes, "B") as progress:
        for fragment in sample.fragments:
            yield from short_runs(fragment.decode())
            done += len(fragment)
            progress.update(done)
