"""Compaction of tokenizers that are put together oddly: what real files hold now and then."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from compact_support import Cut, counted, cuts_of
from odd_tokenizers import as_source, names_of
from tokenizer_support import HARD, sample, train_byte_level, train_sentencepiece
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from lilliput.errors import TokenizerError
from lilliput.export.compacted import write_tokenizer
from lilliput.tokenizer.compact import Compactor
from lilliput.tokenizer.sentencepiece_text import decoder_of
from lilliput.tokenizer.source import read_source
from lilliput.tokenizer.witness import witnesses

Definition = dict[str, Any]
TEXTS = [*HARD, *(line for document in sample()[-40:] for line in document.split("\n"))]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Definition:
    return read_source(train_byte_level(tmp_path_factory.mktemp("plain"), 700)).definition


def check(definition: Definition, extra: list[str] | None = None) -> list[Cut]:
    """All that compaction promises, at three sizes; what it promises of added tokens, too."""
    # As the package itself writes it, so that an odd file is one that the package reads.
    source = as_source(Backend.from_str(json.dumps(definition)))
    possible = witnesses(source)
    cuts = cuts_of(Compactor(source, counted(source, TEXTS[::3])))
    for cut in cuts:
        cut.check([*TEXTS[::2], *(extra or [])])
        cut.check_pieces(possible)
        assert cut.new.get_vocab_size() == cut.size
        assert {number: piece for piece, number in cut.new.get_vocab().items()} == names_of(cut.compaction.source)
        new = cut.compaction.source.definition["added_tokens"]
        assert [{**token, "id": int(cut.ids[token["id"]])} for token in new] == source.definition["added_tokens"]
        for text in extra or []:
            before = cut.old.encode(text, add_special_tokens=True).ids
            added = {token["id"] for token in source.definition["added_tokens"]}
            after = cut.ids[cut.new.encode(text, add_special_tokens=True).ids].tolist()
            assert [number for number in after if number in added] == [number for number in before if number in added]
    return cuts


def test_special_pieces_in_the_middle_of_the_vocabulary(plain: Definition) -> None:
    definition = copy.deepcopy(plain)
    order = sorted(definition["model"]["vocab"])
    random.Random(3).shuffle(order)
    definition["model"]["vocab"] = {piece: number for number, piece in enumerate(order)}
    definition["added_tokens"][0]["id"] = definition["model"]["vocab"]["<|endoftext|>"]
    check(definition)


ADDED = [
    AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False),
    AddedToken("whole", single_word=True),
    AddedToken("É", normalized=True),
    AddedToken("the"),  # a piece of the model as well
    AddedToken("  "),
    AddedToken("<|im_start|>", special=True, normalized=False),
]
AROUND = [
    "a <tool> b<tool>c",
    "whole wholesome whole",
    "É e\u0301 É",
    "the theory bathe the",
    "a    b",
    "<|im_start|>x<|endoftext|>",
]


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.Lowercase()])
def test_added_tokens_of_every_sort(plain: Definition, normalizer: normalizers.Normalizer | None) -> None:
    backend = Backend.from_str(json.dumps(plain))
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_tokens(ADDED)
    name = "<|im_start|>"
    number = backend.token_to_id(name)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{name} $A <|endoftext|>", pair=None, special_tokens=[(name, number), ("<|endoftext|>", 0)]
    )
    check(json.loads(backend.to_str()), AROUND)


def test_transformers_loads_added_tokens_of_every_sort(plain: Definition, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    backend = Backend.from_str(json.dumps(plain))
    backend.add_tokens(ADDED)
    source = as_source(backend)
    compactor = Compactor(source, counted(source, TEXTS[::3]))
    for cut in cuts_of(compactor):
        out = tmp_path / str(cut.size)
        out.mkdir()
        write_tokenizer(out, cut.compaction.source)
        theirs = transformers.AutoTokenizer.from_pretrained(out)
        assert len(theirs) == cut.size
        for text in [*HARD, *AROUND]:
            assert theirs(text, split_special_tokens=True).input_ids == cut.new.encode(text).ids


def test_added_tokens_after_a_unigram_vocabulary() -> None:
    """As in T5 and XLM-RoBERTa, whose special pieces have a score, and so come out of their own names in a text."""
    special = ["<pad>", "</s>", "<unk>"]
    scores = {**dict.fromkeys(special, 0.0), "▁": -2.0, "a": -2.5, "b": -3.0, "▁ab": -4.0, "bb": -5.0, "▁bb": -5.0}
    backend = Backend(models.Unigram(list(scores.items()), 2, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.add_special_tokens([*special, AddedToken("<mask>", lstrip=True)])
    backend.add_tokens(["aba"])
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", pair=None, special_tokens=[("</s>", 1)])
    check(json.loads(backend.to_str()), ["ab a bb", "aba <mask> a", "</s>a b", "abba aab"])


def test_bytes_that_are_missing(plain: Definition) -> None:
    """Characters of which a byte is no piece vanish, before and after."""
    definition = copy.deepcopy(plain)
    gone = set("zé¤")
    vocab = [piece for piece in definition["model"]["vocab"] if not gone & set(piece)]
    definition["model"]["vocab"] = {piece: number for number, piece in enumerate(vocab)}
    kept = [pair for pair in definition["model"]["merges"] if not gone & set("".join(pair))]
    definition["model"]["merges"] = kept
    check(definition, ["zoo ä 中文 lazy"])


def test_nothing_but_bytes(plain: Definition) -> None:
    definition = copy.deepcopy(plain)
    vocab = [piece for piece in definition["model"]["vocab"] if len(piece) == 1 or piece == "<|endoftext|>"]
    definition["model"] |= {"vocab": {piece: number for number, piece in enumerate(vocab)}, "merges": []}
    source = as_source(Backend.from_str(json.dumps(definition)))
    compactor = Compactor(source, counted(source, TEXTS))
    assert compactor.least == compactor.full == 257
    assert compactor.at(257).source == source
    with pytest.raises(TokenizerError, match="256 bytes"):
        compactor.at(256)


def test_numbers_with_gaps(plain: Definition) -> None:
    definition = copy.deepcopy(plain)
    definition["model"]["vocab"] = {piece: 3 * number for piece, number in definition["model"]["vocab"].items()}
    source = as_source(Backend.from_str(json.dumps(definition)))
    compactor = Compactor(source, counted(source, TEXTS))
    assert compactor.full == 700
    for cut in cuts_of(compactor):
        cut.check(TEXTS)
        # At its full size nothing is numbered anew.
        assert cut.size == compactor.full or cut.compaction.source.vocab_size == cut.size == len(cut.ids)


@pytest.mark.parametrize("prepend", [True, False])
def test_a_blank_before_the_text_and_whole_words_looked_up(plain: Definition, prepend: bool) -> None:
    definition = copy.deepcopy(plain)
    definition["model"]["ignore_merges"] = True
    vocab = definition["model"]["vocab"]
    for word in ("zqx", "Ġzqx", "xqzzz"):
        vocab[word] = len(vocab)
    definition["pre_tokenizer"]["add_prefix_space"] = prepend
    check(definition, ["zqx zqx", "xqzzz xqzzz"])


def test_marks_at_the_end_of_words() -> None:
    """As in CLIP: the last piece of a word carries a suffix."""
    letters = [*"abcdefg", *(f"{letter}</w>" for letter in "abcdefg")]
    merges = [("a", "b</w>"), ("c", "ab</w>"), ("d", "e"), ("de", "f</w>"), ("e", "f"), ("a", "b"), ("de", "ab")]
    vocab = {piece: number for number, piece in enumerate([*letters, *("".join(pair) for pair in merges)])}
    backend = Backend(models.BPE(vocab, merges, end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.BPEDecoder()
    check(json.loads(backend.to_str()), ["cab def deab dab ab a abc efef"])


def test_a_low_score_for_the_unknown() -> None:
    """The unknown piece's own score is not used, wherever it stands."""
    pieces = [("▁", -2.0), ("a", -3.0), ("<unk>", -90.0), ("b", -3.5), ("ab", -4.0), ("▁ab", -5.0), ("ba", -80.0)]
    backend = Backend(models.Unigram(pieces, 2, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    for cut in check(json.loads(backend.to_str()), ["abba ab☃ba ☃☃", "aab"]):
        assert cut.compaction.source.definition["model"]["unk_id"] == cut.ids.tolist().index(2)


SENTENCEPIECE = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def test_a_byte_pieces_name_is_plain_text() -> None:
    """In Unigram a literal <0x41> or <s> must not become the byte or the control piece when `<`, `0`, … went."""
    letters = [(letter, -3.0) for letter in "▁<0x41>s"]
    pieces = [("<unk>", -99.0), ("<s>", -99.0), *((piece, -99.0) for piece in BYTES), *letters]
    backend = Backend(models.Unigram(pieces, 0, True))
    backend.decoder = SENTENCEPIECE
    source = as_source(backend)
    assert backend.decode(backend.encode("<0x41> <s>").ids) == "<0x41> <s>"
    compactor = Compactor(source, counted(source, ["▁"]))
    cut = Cut(compactor, compactor.least)
    for text in ("<0x41>", "<s>"):
        after = cut.new.encode(text, add_special_tokens=False).ids
        assert cut.new.decode(after, skip_special_tokens=False) == text


def test_a_character_without_all_its_bytes() -> None:
    vocab = {piece: number for number, piece in enumerate(["<unk>", "<0x61>", "▁", "a", "é"])}
    backend = Backend(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.decoder = SENTENCEPIECE
    source = as_source(backend)
    compactor = Compactor(source, counted(source, ["aa"]))
    Cut(compactor, compactor.least).check(["éa"])


@pytest.mark.parametrize("decoder", [decoders.Metaspace(prepend_scheme="always"), None])
def test_a_decoder_that_strips_by_piece(decoder: decoders.Decoder | None) -> None:
    """tokenizers' Metaspace decoder gives back one blank less for `▁▁` than for `▁` and `▁`; SentencePiece's, where
    it removes extra blanks, one more."""
    backend = Backend(models.Unigram([("<unk>", 0.0), ("▁", -2.0), ("▁▁", -2.5), ("a", -3.0)], 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    if decoder is not None:
        backend.decoder = decoder
    source = as_source(backend)
    if decoder is None:
        model_pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
        # By default extra blanks are removed.
        source.definition["decoder"] = decoder_of(model_pb2.ModelProto(), byte_fallback=False)
    compactor = Compactor(source, counted(source, ["a a"]))
    Cut(compactor, compactor.least).check(["  a"])


def test_a_spelling_that_never_comes_out_is_not_kept() -> None:
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("b", -2.0), ("ab", -3.0), ("bb", -90.0), ("abb", -95.0)]
    backend = Backend(models.Unigram(pieces, 0, False))
    backend.decoder = SENTENCEPIECE
    source = as_source(backend)
    compactor = Compactor(source, counted(source, ["ab b"]))
    Cut(compactor, compactor.least).check_pieces(witnesses(source))


def test_a_letter_inside_words_that_only_longer_pieces_cover() -> None:
    pieces = ["[UNK]", "a", "b", "##a", "##b", "aa", "ab", "ba", "bb"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=2))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    source = as_source(backend)
    compactor = Compactor(source, counted(source, ["a b ab"]))
    Cut(compactor, compactor.least).check(["ba", "aa b"])


def test_padding_by_a_piece_that_goes(plain: Definition) -> None:
    """The package's default names number 0 and a piece [PAD], whatever number 0 is."""
    definition = copy.deepcopy(plain)
    order = sorted(definition["model"]["vocab"], key=len, reverse=True)
    definition["model"]["vocab"] = {piece: number for number, piece in enumerate(order)}
    backend = Backend.from_str(json.dumps(definition))
    backend.enable_padding()
    check(json.loads(backend.to_str()))


@pytest.mark.parametrize(
    "stage",
    [
        processors.TemplateProcessing(single="<s> $A </s>", pair=None, special_tokens=[("<s>", 0), ("</s>", 1)]),
        processors.BertProcessing(("</s>", 1), ("<s>", 0)),
        processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
    ],
)
def test_pieces_around_a_text_that_are_not_declared_as_special(stage: processors.PostProcessor) -> None:
    pieces = ["<s>", "</s>", "a", "b", "c", "ab", "abc"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = Backend(models.BPE(vocab, [("a", "b"), ("ab", "c")]))
    backend.post_processor = stage
    source = as_source(backend)
    cut = Cut(Compactor(source, counted(source, ["abc"])), 5)
    assert cut.ids[cut.new.encode("a").ids].tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("cutter", "normalizer", "text"),
    [
        (pre_tokenizers.Whitespace(), None, "..."),
        (pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits()]), None, "121"),
        (pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.UnicodeScripts()]), None, "какак"),
        (pre_tokenizers.WhitespaceSplit(), normalizers.NFC(), "q\u0301q\u0301"),
    ],
    ids=["signs", "digits", "scripts", "marks"],
)
def test_letters_that_stand_inside_some_words_only(
    cutter: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None, text: str
) -> None:
    letters = sorted(set(text))
    pieces = ["[UNK]", "a", *letters, *(f"##{letter}" for letter in letters), text, text[:2], f"##{text[:2]}"]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.normalizer = cutter, normalizer or normalizers.Strip()
    backend.decoder = decoders.WordPiece(cleanup=False)
    source = as_source(backend)
    assert source.pieces["[UNK]"] not in backend.encode(f"{text} {text[::-1]}").ids
    compactor = Compactor(source, counted(source, [text]))
    Cut(compactor, compactor.least).check([text, text[:2], text[1:]])


def test_user_defined_pieces_of_sentencepiece_stay(tmp_path: Path) -> None:
    """They are what an added token is elsewhere: whole wherever a text holds them."""
    path = train_sentencepiece(tmp_path, "bpe", 600, byte_fallback=True, user_defined_symbols=["<sep>"])
    source = read_source(path)
    compactor = Compactor(source, counted(source, TEXTS))
    assert "<sep>" in compactor.at(compactor.least).source.pieces
