"""What the tests of pages share by import: a page's text, once its tags close and nothing is fetched."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Checks that tags close, and collects the text and whatever a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag in ("script", "link", "iframe", "img"):
            self.fetched.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def read(page: str, absent: tuple[str, ...] = ("None\n",)) -> str:
    """The text of a page that is well-formed and fetches nothing. absent: what the text must not hold."""
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert tags.fetched == []
    for wrong in absent:
        assert wrong not in tags.text
    return tags.text
