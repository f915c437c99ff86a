"""A tokenizer as the rest of the house sees it: plain text to numbers and back, without surprises."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from lilliput.errors import TokenizerError
from lilliput.store import canonical_hash, write_atomic, write_json
from lilliput.tokenizer.encode import Encoder
from lilliput.tokenizer.source import DECISIVE, Source, content_of, read_source

_BOS_NAMES = ("<s>", "<|begin_of_text|>", "<|endoftext|>", "<|im_start|>", "[CLS]")
_EOS_NAMES = ("</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "[SEP]")
_KEPT_CONFIG = (
    "chat_template", "unk_token", "pad_token", "add_prefix_space", "model_input_names", "user_defined_symbols",
    "additional_special_tokens", "extra_special_tokens",
)  # fmt: skip


class Tokenizer:
    """A `tokenizers` tokenizer with its two special tokens.

    backend: the `tokenizers.Tokenizer`. bos_id, eos_id: begin and end of a document (may be the same).
    vocab_size: one more than the highest number. hash: of everything that decides `encode` and the specials;
    shards are tied to it. chat_template: a Jinja template where the tokenizer came with one. config: what the files
    beside it declare. saved: further keys of the `tokenizer_config.json` that `save` writes.
    """

    def __init__(
        self,
        backend: Backend,
        bos_id: int,
        eos_id: int,
        config: dict[str, Any] | None = None,
        saved: dict[str, Any] | None = None,
    ) -> None:
        self.backend, self.bos_id, self.eos_id = backend, bos_id, eos_id
        self._config, self._saved = config or {}, saved or {}
        # Text is text: a string that looks like a special token is encoded like any other.
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        _prepend_bos(backend, bos_id)
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self._definition: dict[str, Any] = json.loads(backend.to_str())
        decisive = {name: self._definition.get(name) for name in DECISIVE}
        self.hash = canonical_hash({**decisive, "bos": bos_id, "eos": eos_id})
        self._encoder = Encoder(Source(self._definition, self._config, "tokenizer"), backend)

    @property
    def chat_template(self) -> str | None:
        """The chat template the tokenizer came with, or None."""
        template = self._config.get("chat_template")
        return template if isinstance(template, str) else None

    @property
    def config(self) -> dict[str, Any]:
        """What the files beside the tokenizer declare."""
        return dict(self._config)

    @property
    def special_ids(self) -> set[int]:
        """The numbers of all tokens that are declared as special."""
        return {int(token["id"]) for token in self._definition["added_tokens"] if token["special"]}

    def encode(self, text: str) -> list[int]:
        """The text's token numbers, without special tokens. Raises TokenizerError for lone surrogates."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once, on all cores, in bounded memory."""
        return self._encoder.encode_batch(texts)

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """`encode_batch` as arrays, which are cheaper to pack."""
        return self._encoder.encode_arrays(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token numbers; special tokens give nothing, half a character gives U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def positions(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Token numbers as a model reads them: one entry for each position of its core."""
        return np.asarray(ids, np.int64)

    def length(self, ids: Sequence[int]) -> int:
        """Positions of the core that these numbers take."""
        return len(ids)

    def last(self, ids: list[int], count: int) -> list[int]:
        """The numbers of the last `count` positions."""
        return ids[max(0, len(ids) - count) :]

    def closes(self, token: int) -> bool:
        """Whether a position of the core ends with this number: here each has its own."""
        return True

    def token(self, number: int) -> str | None:
        """The piece with this number as it stands in the vocabulary."""
        piece: str | None = self.backend.id_to_token(number)
        return piece

    def save(self, folder: Path | str, model_max_length: int | None = None) -> None:
        """Write `tokenizer.json` and the `tokenizer_config.json` with which `transformers.AutoTokenizer` gives
        the same numbers (its default call puts BOS first)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        bos, eos = self.token(self.bos_id), self.token(self.eos_id)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": eos,
            "pad_token": eos,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            # A chat template writes special tokens out: transformers has to read these as such.
            "split_special_tokens": self.chat_template is None,
            # Without this, version 4 of transformers also gives token types, which a decoder refuses.
            "model_input_names": ["input_ids", "attention_mask"],
            **{name: self._config[name] for name in _KEPT_CONFIG if self._config.get(name) is not None},
            **self._saved,
        }
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        write_atomic(folder / "tokenizer.json", json.dumps(self._definition, ensure_ascii=False, indent=1) + "\n")
        write_json(folder / "tokenizer_config.json", config)

    @classmethod
    def load(cls, path: Path | str, *, pattern: str | None = None, special: Sequence[str] = ()) -> Tokenizer:
        """The tokenizer in a file or folder, of any format that `read_source` knows (its arguments are the same).

        Raises TokenizerError where there is none, it is damaged, or it declares no begin or end of a document.
        """
        return cls.of(read_source(path, pattern=pattern, special=special))

    @classmethod
    def of(cls, source: Source) -> Tokenizer:
        """The tokenizer that a source defines. Raises TokenizerError if no token begins or ends a document."""
        backend = source.backend()
        bos = _special(backend, source.config, "bos", _BOS_NAMES)
        eos = _special(backend, source.config, "eos", _EOS_NAMES)
        if bos is None and eos is None:
            mend = 'put a tokenizer_config.json with "bos_token" and "eos_token" beside it'
            mend += "; in a tiktoken file name them: tokenizer.special=['<|endoftext|>']"
            raise TokenizerError("it declares no token that begins or ends a document", where=source.where, mend=mend)
        first = bos if bos is not None else eos
        last = eos if eos is not None else bos
        return cls(backend, int(first or 0), int(last or 0), source.config)


def _prepend_bos(backend: Backend, bos_id: int) -> None:
    """Make the default call put BOS first, if it does not yet."""
    probe = backend.encode("a", add_special_tokens=True).ids
    if probe[:1] == [bos_id]:
        return
    bos = backend.id_to_token(bos_id)
    add = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, bos_id)]
    )
    existing = backend.post_processor
    keeps = existing is not None and probe == backend.encode("a", add_special_tokens=False).ids
    backend.post_processor = processors.Sequence([existing, add]) if keeps else add


def _special(backend: Backend, config: dict[str, Any], role: str, usual: Sequence[str]) -> int | None:
    """The number of the BOS or EOS token: by its declared name, its declared number, or a usual name."""
    named = content_of(config.get(f"{role}_token"))
    if isinstance(named, str) and (number := backend.token_to_id(named)) is not None:
        return int(number)
    declared = config.get(f"{role}_token_id")
    if isinstance(declared, list):
        declared = declared[0] if declared else None
    if isinstance(declared, int) and backend.id_to_token(declared) is not None:
        return declared
    return next((int(at) for name in usual if (at := backend.token_to_id(name)) is not None), None)
