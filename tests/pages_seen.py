"""Pages as a parser sees them."""

from html.parser import HTMLParser

VOID = {"meta", "br"}


class Seen(HTMLParser):
    """What a parser sees of a page: tags with attributes in order, the text of each, and whether all were closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data))

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]

    def of(self, tag: str) -> list[str]:
        return [text for at, text in self.texts if at == tag]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for at, attributes in self.tags if at == tag]
