"""Small real tokenizers of every kind, trained on the spot, and texts on which tokenizers differ."""

import io
import json
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lilliput.corpus import ReadReport
from lilliput.corpus import read_source as read_corpus
from lilliput.recipe import SourceSpec

END_OF_TEXT = "<|endoftext|>"

# Sentences of our own in several scripts, so that small vocabularies know more than English.
_SENTENCES = [
    "The little cat sat on the mat, and the dog looked at it. “Hello!” said the cat.",
    "小猫坐在垫子上，小狗看着它。“你好！”小猫说。今天天气很好，我们去公园玩。",
    "छोटी बिल्ली चटाई पर बैठी थी, और कुत्ता उसे देख रहा था। बिल्ली ने कहा, नमस्ते!",
    "Маленькая кошка сидела на коврике, а собака смотрела на неё. «Привет!» — сказала кошка.",
    "La petite école était fermée à Noël ; où est passé l'été ? Ça, naïve façade, c'est déjà vu.",
    "Größe, Straße und Übermut: 1234 Äpfel kosten 56,78 €, das sind 9 % mehr als ½ davon.",
    "القطة الصغيرة جلست على الحصيرة. שלום, אמר החתול הקטן. 안녕하세요, 작은 고양이가 말했다.",
    "ﬁne ｆｕｌｌ ｗｉｄｔｈ ①②③ x² H₂O ㎏ … e\u0301 n\u0303 Å Å 😀 👩‍👩‍👧 🇩🇪 ✈️",
]

# Texts that have parted tokenizers before.
HARD = [
    "",
    " ",
    "     ",
    "\t",
    "\n",
    " leading",
    "trailing ",
    "two  blanks   three    four" + " " * 40 + "x",
    "a\u2581b \u2581 \u2581\u2581c\u2581",
    "\u2581",
    "line\r\nline\rline\n\n\n  indented\t\ttabs\u00a0nbsp\u3000ideographic\u2003em\u200bzero\u200d\ufeffbom",
    "nul \x00 bell \x07 escape \x1b delete \x7f next \x85 line\u2028separator\u2029paragraph",
    "<s> </s><unk>[UNK] [CLS] <0x41> <|endoftext|>x<pad>",
    "It's 'S WE'LL they'Re 12345 3.14 1,000,000 x=1;y==2;z===3",
    "-" * 70 + "=" * 33 + "." * 17 + "ab" * 25 + "aba" * 11,
    "中文没有空格的句子，标点。全角！ひらがなカタカナ한국어",
    "क्षत्रिय ज्ञान हिन्दी क\u093cि র্\u200dয",
    "e\u0301 a\u0323\u0302 \u0301start q\u0307\u0323 ｅ\u0301 ﬁ\u0308 각 \u1100\u1161\u11a8",
    "👩‍👩‍👧‍👦 🇩🇪🇫 ✈️ \U0001f3fb \U0001f9d1\U0001f3fd‍💻",
    "\ufffd \uffff \U0010ffff \ue000 \U000e0001 \U0001fae8",
]

# What generated texts are made of: pieces of words, blanks of every kind, marks, controls, names of special tokens.
_BITS = [
    *(" ", "  ", "\u2581", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\u200d", "\ufe0f", "\x00", "\x1f"),
    *("<s>", "</s>", "<unk>", "<0x41>", END_OF_TEXT, "[UNK]", "[CLS]", "##a", "<sep>", "@@", "<0xE4>", "\ufeff"),
    *("the", "The", " and", "cat", "self", "a", "b", "ab", "aa", "1", "12", "123", ".", ",", "'s", "'S", "--", "=="),
    *("é", "e\u0301", "\u0301", "\u0323", "Å", "ß", "ﬁ", "½", "①", "ｅ", "Ａ", "中", "文", "。", "，", "한", "("),
    *("\u1100", "\u1161", "क", "\u094d", "ष", "\u093f", "я", "ё", "ш", "ا", "ש", "😀", "👩", "🇩", "🇪", "\U0001f3fd"),
    *("\U0010ffff", "\ufffd"),
]
bits = st.lists(st.sampled_from(_BITS), max_size=24).map("".join)
characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
# Generated text: either of the two, or one after the other.
texts = st.one_of(bits, characters, st.tuples(bits, characters, bits).map("".join))


@cache
def sample() -> tuple[str, ...]:
    """About 400 kB of text: the interpreter's own, and a few sentences in other scripts, many times over."""
    documents = list(read_corpus(SourceSpec(source="builtin:python"), ReadReport()))
    chosen: list[str] = []
    size = 0
    for document in documents[::7]:
        chosen.append(document[:20_000])
        size += len(chosen[-1])
        if size > 400_000:
            break
    return (*chosen, *(_SENTENCES * 20))


def train_byte_level(folder: Path, size: int = 600) -> Path:
    """`tokenizer.json` of a byte-level BPE with one special token, which begins and ends a document."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(sample(), trainer)
    return _save(backend, folder, {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT})


def train_sentencepiece(folder: Path, kind: str = "bpe", size: int = 600, **options: Any) -> Path:
    """`tokenizer.model` by the sentencepiece package. kind: `bpe` or `unigram`; options: the trainer's, such as
    byte_fallback, normalization_rule_name, add_dummy_prefix, user_defined_symbols."""
    import sentencepiece

    written = io.BytesIO()
    # One line a sentence, as the trainer wants it; its texts are cut at 4192 bytes.
    lines = [line for document in sample() for line in document.split("\n") if line.strip()][::4] + _SENTENCES * 20
    settings = {"hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1, "character_coverage": 0.9995}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, model_type=kind, vocab_size=size, **(settings | options)
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.model"
    path.write_bytes(written.getvalue())
    return path


def train_wordpiece(folder: Path, size: int = 600, *, lowercase: bool = True) -> Path:
    """BERT's `vocab.txt`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(sample(), trainer)
    pieces = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
    return path


def write_tiktoken(folder: Path, size: int = 600) -> Path:
    """`small.tiktoken`: the bytes and merges of a byte-level BPE, in order."""
    definition = json.loads(train_byte_level(folder / "byte-level", size + 1).read_text(encoding="utf-8"))
    spelled = _bytes_of_characters()
    pieces = sorted(definition["model"]["vocab"].items(), key=lambda item: int(item[1]))
    tokens = [bytes(spelled[character] for character in piece) for piece, _ in pieces if piece != END_OF_TEXT]
    path = folder / "small.tiktoken"
    path.write_bytes(b"".join(b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return path


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's rule: printable Latin-1 stands for itself, the other bytes for the characters from U+0100 on."""
    plain = [byte for byte in range(256) if chr(byte) in pre_tokenizers.ByteLevel.alphabet()]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _save(backend: Backend, folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    backend.save(str(path))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return path
