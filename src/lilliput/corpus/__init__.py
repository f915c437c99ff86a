"""Text: where it comes from, how it is cut, what is held out, and how it lies on disk."""

from lilliput.corpus.build import build_corpus
from lilliput.corpus.documents import Documents
from lilliput.corpus.report import ReadReport
from lilliput.corpus.shards import Shards, pack
from lilliput.corpus.sources import read_source, source_identity

__all__ = ["Documents", "ReadReport", "Shards", "build_corpus", "pack", "read_source", "source_identity"]
