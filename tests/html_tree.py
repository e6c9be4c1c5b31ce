"""HTML as a tree, parsed strictly: what is opened must be closed, in order."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = ("br", "col", "hr", "meta", "link", "img", "input")


class Element:
    """An element, its attributes, and what is inside."""

    def __init__(self, name, attributes):
        self.name = name
        self.attributes = attributes
        self.children = []

    def all(self, name=None):
        """Elements inside, in the order of the page; those of one name, if given."""
        for child in self.children:
            if isinstance(child, Element):
                if name in (None, child.name):
                    yield child
                yield from child.all(name)

    def one(self, name, /, **attributes):
        """The one element with this name and these attributes."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        found = [each for each in self.all(name) if wanted.items() <= each.attributes.items()]
        assert len(found) == 1, (name, attributes, len(found))
        return found[0]

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def __repr__(self):
        return f"<{self.name} {self.attributes}>"


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Element("page", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open[-1].name == tag, (self.open[-1], tag, self.getpos())
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


def parsed(text):
    """The tree of a page."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.open == [parser.root], parser.open
    return parser.root
