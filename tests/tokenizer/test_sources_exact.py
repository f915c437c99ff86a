"""Real tokenizers give exactly the numbers of their own library, on real text of three kinds."""

import io
import json
import lzma
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from tokenizer_support import HARD
from tokenizers import Tokenizer as Backend

from lilliput.tokenizer import patterns
from lilliput.tokenizer.source import read_source

pytest.importorskip("sentencepiece")
pytest.importorskip("tiktoken")
pytest.importorskip("transformers")

Encode = Callable[[list[str]], list[list[int]]]
CORPORA = ("childlike", "chinese", "mixed_domains")


def sentencepiece_of(folder: Path) -> Encode:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return partial(model.encode, num_threads=1)


def tiktoken_of(file: Path, pattern: str) -> Encode:
    import tiktoken

    if file.suffix == ".json":  # GPT-2's: pieces are spelled in the characters that stand for bytes
        spelled = {chr(byte): byte for byte in [*range(33, 127), *range(161, 173), *range(174, 256)]}
        spelled |= {chr(256 + at): byte for at, byte in enumerate(sorted(set(range(256)) - set(spelled.values())))}
        vocab = json.loads(file.read_text(encoding="utf-8"))
        ranks = {bytes(map(spelled.__getitem__, piece)): at for piece, at in vocab.items() if at < 50256}
    else:
        ranks = {b64decode(token): int(rank) for token, rank in map(str.split, file.read_text().splitlines())}
    theirs = tiktoken.Encoding(file.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return partial(theirs.encode_ordinary_batch, num_threads=1)


def bert_of(folder: Path) -> Encode:
    from transformers import BertTokenizer

    theirs = BertTokenizer(vocab=str(folder / "vocab.txt"))
    return lambda texts: theirs(texts, add_special_tokens=False, verbose=False)["input_ids"]


def python_bert_of(folder: Path) -> Encode:
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    theirs = BertTokenizerLegacy(str(folder / "vocab.txt"), split_special_tokens=True)
    return lambda texts: [theirs.convert_tokens_to_ids(theirs.tokenize(text)) for text in texts]


LIBRARIES: dict[str, Callable[[Path], Encode]] = {
    "llama2": sentencepiece_of,
    "llama3": lambda folder: tiktoken_of(folder / "tokenizer.model", patterns.CL100K),
    "qwen": lambda folder: tiktoken_of(folder / "qwen.tiktoken", patterns.QWEN),
    "gpt2": lambda folder: tiktoken_of(folder / "vocab.json", patterns.GPT2),
    "bert": bert_of,
}


def documents(data_dir: Path, corpus: str, size: int) -> Iterator[list[str]]:
    """The first `size` bytes of a corpus, some hundred kB at a time."""
    group: list[str] = []
    seen = held = 0
    with lzma.open(data_dir / "corpora" / f"{corpus}.train.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            group.append(text)
            held += len(text.encode())
            if held > 400_000 or seen + held > size:
                yield group
                seen, held, group = seen + held, 0, []
            if seen > size:
                return
    yield group


@cache
def ours_and_theirs(folder: Path, library: Callable[[Path], Encode]) -> tuple[Backend, Encode]:
    return read_source(folder).backend(), library(folder)


def differences(data_dir: Path, name: str, library: Callable[[Path], Encode], corpus: str, size: int) -> list[str]:
    """Texts, by what stands around the first number that differs."""
    ours, theirs = ours_and_theirs(data_dir / "tokenizers" / name, library)
    found = []
    for texts in documents(data_dir, corpus, size):
        encoded = [part.ids for part in ours.encode_batch_fast(texts, add_special_tokens=False)]
        for left, right in zip(encoded, theirs(texts), strict=True):
            if left != list(right):
                at = next((at for at, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), 0)
                found.append(f"{ours.decode(left[at - 3 : at + 5])!r} {left[at : at + 5]} {right[at : at + 5]}")
    return found


@pytest.mark.data
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_a_real_tokenizer_gives_its_librarys_numbers(data_dir: Path, name: str, corpus: str) -> None:
    assert differences(data_dir, name, LIBRARIES[name], corpus, 200_000) == []


@pytest.mark.data
@pytest.mark.parametrize("name", LIBRARIES)
def test_runs_and_odd_characters(data_dir: Path, name: str) -> None:
    """Long runs, where equal joins overlap, and texts that have parted tokenizers before."""
    ours, theirs = ours_and_theirs(data_dir / "tokenizers" / name, LIBRARIES[name])
    units = [*" =-\na\t*_#的é😀", "ab", "aba", "ha", ". ", "\r\n", "  \n", "/*", "12", "\u3000"]
    runs = [before + unit * size for unit in units for size in (*range(1, 40), 64, 99, 257) for before in ("", "x")]
    # The name of a special token is text to us, as to all but the default of transformers.
    hard = [text for text in HARD if name != "bert" or "[" not in text]
    encoded = [part.ids for part in ours.encode_batch_fast(runs + hard, add_special_tokens=False)]
    assert encoded == [list(numbers) for numbers in theirs(runs + hard)]


@pytest.mark.data
@pytest.mark.parametrize("corpus", CORPORA)
def test_bert_gives_the_numbers_of_its_first_library(data_dir: Path, corpus: str) -> None:
    assert differences(data_dir, "bert", python_bert_of, corpus, 200_000) == []


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_a_real_tokenizer_gives_its_librarys_numbers_on_10_mb(data_dir: Path, name: str, corpus: str) -> None:
    assert differences(data_dir, name, LIBRARIES[name], corpus, 10_400_000) == []


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_unigram_differs_only_where_single_precision_decides(data_dir: Path, tmp_path: Path) -> None:
    """SentencePiece adds scores of a whole document in single precision: of a million numbers, a few differ, for
    spellings whose scores are as good as equal."""
    import sentencepiece

    texts = [text for corpus in CORPORA for group in documents(data_dir, corpus, 1_000_000) for text in group]
    written = io.BytesIO()
    lines = (line for text in texts for line in text.split("\n") if line.strip())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=written,
        model_type="unigram",
        vocab_size=8000,
        byte_fallback=True,
        minloglevel=2,
        num_threads=1,
        max_sentence_length=20_000,
    )
    file = tmp_path / "tokenizer.model"
    file.write_bytes(written.getvalue())
    source, theirs = read_source(file), sentencepiece_of(tmp_path)
    scores = [score for _, score in source.definition["model"]["vocab"]]
    numbers = differ = 0
    for text, part in zip(texts, source.backend().encode_batch_fast(texts, add_special_tokens=False), strict=True):
        left, right = part.ids, theirs([text])[0]
        numbers += len(right)
        if left != right:
            differ += sum((Counter(right) - Counter(left)).values())
            assert abs(sum(scores[at] for at in left) - sum(scores[at] for at in right)) < 0.02
    assert differ <= numbers / 20_000


@pytest.mark.data
def test_gpt2_reads_alike_from_either_form(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "tokenizers" / "gpt2"
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    whole, pair = read_source(folder), read_source(tmp_path)
    assert pair.definition["model"]["merges"] == whole.definition["model"]["merges"]
    assert pair.pieces == whole.pieces
    assert read_source(tmp_path / "merges.txt").definition == read_source(tmp_path / "vocab.json").definition
    texts = [text for group in documents(data_dir, "mixed_domains", 100_000) for text in group]
    encoded = [[part.ids for part in source.backend().encode_batch_fast(texts)] for source in (whole, pair)]
    assert encoded[0] == encoded[1]
