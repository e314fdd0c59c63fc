"""HTML and SVG as trees: whatever is put into one is escaped when it is written, so that text stays text."""

from xml.etree.ElementTree import Element, tostring

from unlearn_audit.render.untrusted import printable

OWN_LINE = frozenset(
    ("head", "meta", "title", "style", "body", "main", "nav", "section", "header", "footer", "h1", "h2", "h3", "p",
     "ul", "li", "div", "figure", "figcaption", "table", "caption", "thead", "tbody", "tr", "svg", "details", "summary")
)  # fmt: skip


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    r"""Return an element; characters that are not printable are written out, attributes that are None are left out.

    An attribute's name has "_" where its own has "-", and may end with one: `class_`, `stroke_width`.

    >>> as_html(element("p", "a < b", element("br"), "c", class_="x"))
    '<p class="x">a &lt; b<br>c</p>\n'
    """
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    made = Element(tag, {name: printable(str(value)) for name, value in names.items()})
    made.tail = "\n" if tag in OWN_LINE else None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "").rstrip("\n") + printable(child)
        else:
            made.text = (made.text or "") + printable(child)
    return made


def as_html(tree: Element) -> str:
    """Return a tree as HTML 5 writes it."""
    return tostring(tree, encoding="unicode", method="html")


def as_xml(tree: Element) -> str:
    """Return a tree as XML, such as an SVG file of its own."""
    return tostring(tree, encoding="unicode", method="xml")
