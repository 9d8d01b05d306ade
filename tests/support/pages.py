"""A page's elements and words, for the tests of both pages."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = set("meta img br wbr link input line path circle polyline polygon".split())


class Page(HTMLParser):
    """Elements of a page: (tag, attributes), its text, and whether its tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open, self._in_word = [], [], [], False
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in_word = tag == "wbr"
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self._in_word:
            self.texts[-1] += data
            self._in_word = False
        elif not {"script", "style"} & set(self._open):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag, **attributes):
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]
