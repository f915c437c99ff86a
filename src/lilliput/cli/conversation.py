"""The two ways to talk with a model: turns by its chat template, or a text continued together."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as Backend

from lilliput.cli.stream import Reply
from lilliput.cli.writer import Sampling, Writer
from lilliput.errors import ModelError
from lilliput.progress import warn

# Put inside a special token's text that a person typed, and cut there before encoding, so that what people
# write is never taken for a special token. A private-use character, used for nothing else.
_CUT = "\uf6d5"


class Conversation(ABC):
    """What was said so far, and the next reply."""

    template: bool

    def __init__(self, writer: Writer, sampling: Sampling) -> None:
        self.writer, self.sampling = writer, sampling
        self.turn = 0

    def reply(self, line: str) -> Reply:
        """The model's reply to `line`, to be iterated. Each turn draws with a seed of its own."""
        sampling = replace(self.sampling, seed=self.sampling.seed + self.turn)
        self.turn += 1
        return self.writer.reply(self.ids(line), sampling)

    @abstractmethod
    def ids(self, line: str) -> list[int]:
        """What the model reads before it replies to `line`."""

    @abstractmethod
    def remember(self, line: str, text: str) -> None:
        """Add a turn to what was said."""


class Continuation(Conversation):
    """One text: the person's lines and the model's continuations of them."""

    template = False

    def __init__(self, writer: Writer, sampling: Sampling) -> None:
        super().__init__(writer, sampling)
        self._text = ""

    def ids(self, line: str) -> list[int]:
        """BOS and the end of the text so far, at most half of what the model sees."""
        written = self.writer.tokenizer.encode(self._text + line)
        return [self.writer.tokenizer.bos_id, *self.writer.tokenizer.last(written, max(1, self.writer.context // 2))]

    def remember(self, line: str, text: str) -> None:
        """The two become one text, and the next line begins a new one of it."""
        self._text += f"{line}{text}\n"


class Templated(Conversation):
    """Turns of a person and the model, in the form the model was trained with."""

    template = True

    def __init__(self, writer: Writer, sampling: Sampling, source: str, tokens: dict[str, str]) -> None:
        super().__init__(writer, sampling)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = self._refuse
        environment.globals["strftime_now"] = _today
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise self._broken(str(error)) from None
        self._tokens = tokens
        # A reader of its own: the model's tokenizer takes special tokens' text for plain text, as it must.
        self._backend = Backend.from_file(str(writer.path / "tokenizer.json"))
        added = self._backend.get_added_tokens_decoder().values()
        self._specials = sorted((token.content for token in added if token.special), key=len, reverse=True)
        self._said: list[dict[str, str]] = []

    def ids(self, line: str) -> list[int]:
        """The rendered turns; the oldest are dropped where all are more than the model can see."""
        turns = [*self._said, {"role": "user", "content": self._plain(line)}]
        ids = self._encode(self._render(turns))
        while len(ids) >= self.writer.context and len(turns) > 2:
            turns = turns[2:]
            ids = self._encode(self._render(turns))
        if len(turns) <= len(self._said):
            warn("the talk is longer than the model can see: its beginning is dropped")
            self._said = turns[:-1]
        return self.writer.fit(ids)

    def remember(self, line: str, text: str) -> None:
        """Both turns, as plain text."""
        self._said.append({"role": "user", "content": self._plain(line)})
        self._said.append({"role": "assistant", "content": self._plain(text)})

    def _plain(self, text: str) -> str:
        text = text.replace(_CUT, "")
        for special in self._specials:
            text = text.replace(special, special[:1] + _CUT + special[1:])
        return text

    def _render(self, turns: list[dict[str, str]]) -> str:
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._tokens)
        except TemplateError as error:
            raise self._broken(str(error)) from None

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in text.split(_CUT):
            ids += self._backend.encode(part, add_special_tokens=False).ids
        return ids

    def _refuse(self, message: str) -> None:
        raise self._broken(message)

    def _broken(self, message: str) -> ModelError:
        mend = "use `lilliput generate`, which needs no template"
        where = str(self.writer.path)
        return ModelError(f"the chat template cannot be used: {message}", where=where, mend=mend)


def _today(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


def open_conversation(writer: Writer, sampling: Sampling) -> Conversation:
    """Turns where the model directory has a chat template, else one text continued."""
    source, tokens = _find_template(writer)
    return Templated(writer, sampling, source, tokens) if source else Continuation(writer, sampling)


def _find_template(writer: Writer) -> tuple[str | None, dict[str, str]]:
    """The chat template (chat_template.jinja, else in tokenizer_config.json) and the tokens it may name."""
    file = writer.path / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    tokens = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            tokens[name] = token
    separate = writer.path / "chat_template.jinja"
    if separate.is_file():
        return separate.read_text(encoding="utf-8"), tokens
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None, tokens
