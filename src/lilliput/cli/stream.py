"""Text as it is generated: token by token, always valid UTF-8, ended by stop strings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

# The decoder shows a character whose bytes are not all there yet as this one.
_INCOMPLETE = "\ufffd"
# Only so many tokens at a time are decoded anew, so that the work does not grow with the text.
_WINDOW = 64


class TextStream:
    """Turns token ids into text piece by piece; the pieces joined are the decoded whole.

    decode: ids to text, `\\ufffd` standing for bytes that are no character. before: the ids that precede
    (the prompt), so that the first new token is decoded as a continuation.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(before[-_WINDOW:])
        self._said = len(decode(self._ids)) if self._ids else 0
        self._boundary = len(self._ids)

    def push(self, token: int) -> str:
        """The text that is certain now that `token` has come."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith(_INCOMPLETE):
            return self._take(text[:-1])
        new = self._take(text)
        if len(self._ids) > 2 * _WINDOW:
            # Cut where a character ended, and keep a token: some decoders strip the first one's space.
            self._ids = self._ids[self._boundary :]
            self._said = len(self._decode(self._ids))
        self._boundary = len(self._ids)
        return new

    def flush(self) -> str:
        """What is left at the end; bytes that never became a character show as `\\ufffd`."""
        return self._take(self._decode(self._ids)) if self._ids else ""

    def _take(self, text: str) -> str:
        new = text[self._said :]
        self._said = max(self._said, len(text))
        return new


class StopText:
    """Ends text before the first of `stops`, holding back what may yet become one."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of `text` (and of what was held back) that no stop string can reach any more."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Reply:
    """Iterate to get the text of one generation in pieces. `tokens` and `ended` are known afterwards.

    ended: `eos` (the model ended it), `stop` (a stop string) or `length`. closes: whether a token counts, since a
    byte-pooled model's unit comes in several.
    """

    def __init__(
        self,
        tokens: Iterable[int],
        decode: Callable[[list[int]], str],
        *,
        before: Sequence[int],
        ends: Sequence[int],
        stops: Sequence[str],
        closes: Callable[[int], bool] = lambda token: True,
    ) -> None:
        self._closes = closes
        self._source = tokens
        self._text = TextStream(decode, before)
        self._stop = StopText(stops)
        self._ends = set(ends)
        self.tokens = 0
        self.ended = "length"

    def __iter__(self) -> Iterator[str]:
        for token in self._source:
            if token in self._ends:
                self.ended = "eos"
                break
            self.tokens += self._closes(token)
            if piece := self._stop.push(self._text.push(token)):
                yield piece
            if self._stop.stopped:
                self.ended = "stop"
                return
        last = self._stop.push(self._text.flush())
        if self._stop.stopped:
            self.ended = "stop"
        else:
            last += self._stop.flush()
        if last:
            yield last
