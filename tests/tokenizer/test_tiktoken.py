"""tiktoken files give tiktoken's numbers; the pattern is known by content, given, or assumed aloud."""

from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_support import HARD, sample, texts, write_tiktoken

from lilliput.errors import TokenizerError
from lilliput.tokenizer.patterns import CL100K, GPT2, O200K, QWEN, for_tokenizers
from lilliput.tokenizer.source import read_source

tiktoken = pytest.importorskip("tiktoken")

# As `tiktoken_ext/openai_public.py` writes them today: possessive, for speed.
FAST_GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
FAST_CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s"""
)
HAN = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "qwen": QWEN, "o200k": O200K, "han": HAN}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiktoken(tmp_path_factory.mktemp("tiktoken"), 900)


def ranks_of(file: Path) -> dict[bytes, int]:
    from tiktoken.load import load_tiktoken_bpe

    return load_tiktoken_bpe(str(file))


@pytest.mark.parametrize("name", PATTERNS)
def test_the_numbers_are_tiktokens(file: Path, name: str) -> None:
    ours = read_source(file, pattern=PATTERNS[name]).backend()
    theirs = tiktoken.Encoding("x", pat_str=PATTERNS[name], mergeable_ranks=ranks_of(file), special_tokens={})
    for text in (*HARD, *sample()):
        assert ours.encode(text).ids == theirs.encode_ordinary(text)

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(texts, st.text(st.sampled_from("ab-= \n'sS1"), max_size=60)))
    def on_generated_text(text: str) -> None:
        found = ours.encode(text).ids
        assert found == theirs.encode_ordinary(text)
        assert ours.decode(found) == text == theirs.decode(found)

    on_generated_text()


@pytest.mark.parametrize("pattern", [FAST_GPT2, FAST_CL100K])
def test_todays_patterns_mean_what_they_do_in_tiktoken(file: Path, pattern: str) -> None:
    ours = read_source(file, pattern=pattern).backend()
    theirs = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks_of(file), special_tokens={})
    for text in (*HARD, "a\n  ", "12345$\n^x", *sample()[:80]):
        assert ours.encode(text).ids == theirs.encode_ordinary(text)


def test_a_pattern_is_translated() -> None:
    assert for_tokenizers(r"\p{N}{1,3}+|[a$^]\$|\s++$|^x") == r"(?>\p{N}{1,3})|[a$^]\$|\s++\z|\Ax"
    assert for_tokenizers(CL100K) == CL100K


@pytest.mark.parametrize("pattern", ["(", "[a", "", "(ab){1,2}+", "(?m)^a$", "*"])
def test_a_wrong_pattern_is_refused(file: Path, pattern: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        read_source(file, pattern=pattern)
    assert caught.value.where is not None
    assert caught.value.where.startswith("--pattern")


def test_an_unknown_vocabulary_takes_gpt4s_pattern_and_says_so(file: Path) -> None:
    source = read_source(file)
    assert source.definition["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": CL100K}
    assert "GPT-4's pattern" in source.notes[0]
    assert read_source(file, pattern=GPT2).notes == ()
    assert source.definition["model"]["ignore_merges"] is True


def test_special_tokens(file: Path) -> None:
    size = len(ranks_of(file))
    source = read_source(file, special=["<|begin_of_text|>", "<|end_of_text|>", "<|x=1|>"])
    added = {token["content"]: token["id"] for token in source.definition["added_tokens"]}
    assert added == {"<|begin_of_text|>": size, "<|end_of_text|>": size + 1, "<|x=1|>": size + 2}
    assert source.config == {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    assert source.vocab_size == size + 3
    backend = source.backend()
    assert backend.encode("a").ids[0] == size
    assert not {*added.values()} & {*backend.encode("<|end_of_text|> <|x=1|>", add_special_tokens=False).ids}
    assert "bos_token" not in read_source(file).config


def test_a_special_token_with_a_number(file: Path) -> None:
    size = len(ranks_of(file))
    source = read_source(file, special=[f"<|endoftext|>={size + 7}", "<|next|>"])
    assert source.pieces["<|endoftext|>"] == size + 7
    assert source.pieces["<|next|>"] == size + 8
    assert source.backend().token_to_id("<|next|>") == size + 8
    assert not [at for at in source.backend().encode("a<|endoftext|>", add_special_tokens=False).ids if at >= size]


@pytest.mark.parametrize(
    ("special", "reason"),
    [
        (["<|a|>", "<|a|>"], "is a token already"),
        (["self"], "is a token already"),
        (["<|a|>=5"], "cannot be 5"),
        (["<|a|>=2000", "<|b|>=2000"], "cannot be 2000"),
        ([""], "no name"),
        (["xyzzy=2000"], "word of text"),
    ],
)
def test_a_clash_is_refused(file: Path, special: list[str], reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        read_source(file, special=special)


def test_a_gap_may_be_a_special_token(file: Path, tmp_path: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.tiktoken"
    cut.write_bytes(b"".join(lines[:400] + lines[401:]))
    with pytest.raises(TokenizerError, match=r"1 ranks are missing \(the first: 400\)") as caught:
        read_source(cut)
    assert caught.value.mend is not None
    assert "--special NAME=400" in caught.value.mend
    source = read_source(cut, special=["<|endoftext|>=400"], pattern=GPT2)
    assert source.pieces["<|endoftext|>"] == 400
    ranks = {token: rank for token, rank in ranks_of(file).items() if rank != 400}
    theirs = tiktoken.Encoding("x", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 400})
    backend = source.backend()
    for text in (*HARD, *sample()[:50]):
        assert backend.encode(text, add_special_tokens=False).ids == theirs.encode_ordinary(text)


def lines_of(tokens: list[bytes]) -> list[bytes]:
    return [b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]


BYTES = [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([*lines_of(BYTES), b"YWI=\n"], "not a token in base64"),
        ([*lines_of(BYTES), b"YWI= x\n"], "not a token in base64"),
        ([*lines_of(BYTES), b"YWI= 256 1\n"], "not a token in base64"),
        ([*lines_of(BYTES), b"?? 256\n"], "not a token in base64"),
        ([*lines_of(BYTES), b"YWI= -1\n"], "not a token in base64"),
        ([*lines_of(BYTES), b"YWI= 255\n"], "rank 255 is there twice"),
        ([*lines_of(BYTES), b"YQ== 256\n"], "token YQ== is there twice"),
        (lines_of(BYTES[:200]), "56 of the 256 bytes have no token"),
        ([*lines_of(BYTES), b"YWI= 300\n"], "44 ranks are missing"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, lines: list[bytes], reason: str) -> None:
    path = tmp_path / "x.tiktoken"
    path.write_bytes(b"".join(lines))
    with pytest.raises(TokenizerError, match=reason) as caught:
        read_source(path)
    assert str(path) in str(caught.value)


def test_carriage_returns_and_any_order_are_read(file: Path, tmp_path: Path) -> None:
    lines = file.read_bytes().splitlines()
    other = tmp_path / "windows.tiktoken"
    other.write_bytes(b"\r\n".join(reversed(lines)) + b"\r\n\r\n")
    assert read_source(other).definition == read_source(file).definition


def test_single_bytes_alone_are_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"".join(lines_of(BYTES)))
    backend = read_source(path).backend()
    assert backend.encode("é\x00").ids == [*"é\x00".encode()]


@pytest.mark.data
@pytest.mark.parametrize(("name", "pattern"), [("llama3", CL100K), ("qwen", QWEN)])
def test_real_vocabularies_are_known(data_dir: Path, name: str, pattern: str) -> None:
    source = read_source(data_dir / "tokenizers" / name)
    assert source.notes == ()
    assert source.definition["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": pattern}


@pytest.mark.data
def test_gpt2_is_known_as_a_tiktoken_file(data_dir: Path, tmp_path: Path) -> None:
    whole = read_source(data_dir / "tokenizers" / "gpt2")
    from tokenizer_support import _bytes_of_characters as spelling

    spelled = spelling()
    pieces = sorted((rank, piece) for piece, rank in whole.pieces.items() if rank < 50256)
    path = tmp_path / "r50k"
    path.write_bytes(b"".join(lines_of([bytes(spelled[letter] for letter in piece) for _, piece in pieces])))
    source = read_source(path, special=["<|endoftext|>"])
    assert source.notes == ()
    assert source.pieces == whole.pieces
    ours, theirs = source.backend(), whole.backend()
    for text in (*HARD, *sample()[:50]):
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids
