"""Text as the symbols of units, for byte-pooled models. Needs transformers 4.56 or later. Written by Lilliput.

Symbols: 0 padding, byte b as b + 1, 257 the end of a unit, 258 the beginning and end of a document. The text is cut
into units by a pattern, long ones at the borders of characters.
"""

# mypy: ignore-errors
import json
import os
import re

from transformers import PreTrainedTokenizer

PAD, END, DOCUMENT = 0, 257, 258
NAMES = ["<pad>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|end|>", "<|document|>"]


class LilliputUnitTokenizer(PreTrainedTokenizer):
    """pattern: a regular expression. limit: bytes a unit has at most."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012, so transformers has it
    vocab_files_names = {"units_file": "units.json"}  # noqa: RUF012

    def __init__(self, units_file=None, pattern=None, limit=None, **kwargs):
        if units_file is not None:
            with open(units_file, encoding="utf-8") as file:
                units = json.load(file)
            pattern, limit = units["pattern"], units["limit"]
        self.pattern, self.limit = pattern, limit
        self._find = re.compile(pattern)
        self._number = {name: number for number, name in enumerate(NAMES)}
        for role, name in (("bos", NAMES[DOCUMENT]), ("eos", NAMES[DOCUMENT]), ("pad", NAMES[PAD])):
            kwargs[f"{role}_token"] = name
        # Text is text: what looks like a special token is encoded as any other.
        kwargs["split_special_tokens"] = True
        super().__init__(pattern=pattern, limit=limit, **kwargs)

    @property
    def vocab_size(self):
        return len(NAMES)

    def get_vocab(self):
        return dict(self._number)

    def _units(self, text):
        at = 0
        for match in self._find.finditer(text):
            yield from (part for part in (text[at : match.start()], match[0]) if part)
            at = match.end()
        if text[at:]:
            yield text[at:]

    def _tokenize(self, text, **kwargs):
        names = []
        for unit in self._units(text):
            raw = unit.encode()
            while raw:
                cut = min(self.limit, len(raw))
                while 0 < cut < len(raw) and raw[cut] & 0xC0 == 0x80:
                    cut -= 1
                cut = cut or self.limit
                names += [NAMES[byte + 1] for byte in raw[:cut]]
                names.append(NAMES[END])
                raw = raw[cut:]
        return names

    def _convert_token_to_id(self, token):
        return self._number.get(token, PAD)

    def _convert_id_to_token(self, index):
        return NAMES[index]

    def convert_tokens_to_string(self, tokens):
        numbers = (self._number[token] for token in tokens)
        return bytes(number - 1 for number in numbers if PAD < number < END).decode("utf-8", "replace")

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [DOCUMENT, *token_ids_0, *([DOCUMENT, *token_ids_1] if token_ids_1 else [])]

    def save_vocabulary(self, save_directory, filename_prefix=None):
        file = os.path.join(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + "units.json")
        with open(file, "w", encoding="utf-8") as out:
            json.dump({"format": 1, "pattern": self.pattern, "limit": self.limit}, out)
        return (file,)
