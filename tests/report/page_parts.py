"""What stands on an HTML page: elements with their attributes, and the text that is shown."""

from __future__ import annotations

from html.parser import HTMLParser

# Everything that our template and the plots are made of.
_ELEMENTS = """
a body caption details div figcaption figure footer h1 h2 h3 h4 head header html i li main meta p
pre section span style summary table tbody td th thead title tr ul wbr
circle clippath defs g line path rect svg text
"""
_ATTRIBUTES = """
aria-hidden aria-label charset class clip-path content d dominant-baseline fill fill-opacity
display font-family font-size font-style font-weight height href http-equiv id lang name opacity
open pointer-events role scope stroke stroke-dasharray stroke-linecap stroke-miterlimit
stroke-opacity stroke-dashoffset stroke-linejoin stroke-width style tabindex text-anchor transform
viewbox width x x1 x2 y y1 y2 visibility
"""
ELEMENTS, ATTRIBUTES = frozenset(_ELEMENTS.split()), frozenset(_ATTRIBUTES.split())


class PageParts(HTMLParser):
    """The parts of a page, as a browser's tokenizer finds them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.others: list[str] = []  # comments and instructions
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)
