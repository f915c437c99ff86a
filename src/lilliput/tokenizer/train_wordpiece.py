"""Training a WordPiece on the corpus: BERT's kind of vocabulary, lower-cased."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lilliput.corpus.documents import Documents
from lilliput.errors import TokenizerError
from lilliput.progress import count, say, warn
from lilliput.tokenizer.load import Tokenizer
from lilliput.tokenizer.sample import DISTINCT_BYTES, SAMPLE_BYTES, draw
from lilliput.tokenizer.train import feed

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SMALLEST = 257
# BERT's: letters beyond the thousand commonest, as of Chinese, become [UNK].
_ALPHABET = 1000


def train_wordpiece(
    documents: Documents | Iterable[str],
    vocab_size: int,
    *,
    sample_bytes: int = SAMPLE_BYTES,
    distinct_bytes: int = DISTINCT_BYTES,
) -> Tokenizer:
    """A lower-cased WordPiece of `vocab_size` pieces, the five special ones first.

    Text is cleaned, lower-cased and stripped of accents, then cut at white space and punctuation, as BERT's uncased
    one is (1810.04805); so it does not give text back as it was, which an encoder need not. A sample is used; where it
    has too few pairs, the vocabulary is smaller than asked and a warning says so. Raises TokenizerError if there is no
    text or `vocab_size` is under 257.
    """
    if vocab_size < SMALLEST:
        reason = f"{vocab_size} pieces are too few for the letters of a text"
        raise TokenizerError(reason, where="tokenizer.vocab_size", mend=f"tokenizer.vocab_size={SMALLEST} or more")
    sample = draw(documents, sample_bytes, distinct_bytes)
    if not sample.bytes:
        raise TokenizerError("there is no text to train a tokenizer on", where="corpus", mend="name more text")
    used = f"{count(sample.bytes)}B of {count(sample.corpus_bytes)}B of text"
    say(f"tokenizer: learning {vocab_size} pieces from {used}")
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        limit_alphabet=min(_ALPHABET, vocab_size // 2),
        show_progress=False,
    )
    backend.train_from_iterator(feed(sample), trainer)
    numbers = backend.get_vocab()
    declared = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    tokenizer = Tokenizer(backend, numbers["[CLS]"], numbers["[SEP]"], declared)
    if tokenizer.vocab_size < vocab_size:
        warn(f"the text holds pairs for {tokenizer.vocab_size} pieces only, not {vocab_size}; that many it is")
    return tokenizer
