"""What the tests ask of a page in the browser, and how colours are weighed; the questions are JavaScript."""

from __future__ import annotations

import re
from typing import Any

# Every table that is shown: its edges, the box it scrolls in, and whether its last column can be brought into view.
TABLES = """() => [...document.querySelectorAll('table')].filter(one => one.checkVisibility()).map(table => {
  const scrolls = one => ['auto', 'scroll'].includes(getComputedStyle(one).overflowX);
  let box = table.parentElement;
  while (box !== document.body && !scrolls(box)) box = box.parentElement;
  const inside = box.getBoundingClientRect(), own = table.getBoundingClientRect();
  const wide = own.width > innerWidth || box.scrollWidth > box.clientWidth;
  box.scrollLeft = 1e6;
  const moved = box.scrollLeft, last = table.rows[0].lastElementChild.getBoundingClientRect().right;
  box.scrollLeft = 0;
  return {name: table.innerText.slice(0, 40), own: own.right, wide, boxed: box !== document.body, moved,
          last, left: inside.left, right: inside.right};
})"""
# Words of a chart that lie on one another or outside it.
OVERLAPS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect(), words = [...svg.querySelectorAll('text')];
  const found = words.map(one => ({word: one.textContent, ...one.getBoundingClientRect().toJSON()}));
  const outside = found.filter(one => one.left < frame.left - 2 || one.right > frame.right + 2);
  const pairs = found.flatMap((a, i) => found.slice(i + 1).filter(b =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3).map(b => `${a.word} | ${b.word}`));
  return [...outside.map(one => one.word), ...pairs];
})"""
# Numbers that stick out of their cells, or are broken at the end of a line.
TIGHT = """() => [...document.querySelectorAll('td, .tiles dd')].filter(one => {
  if (!one.checkVisibility() || one.closest('.heat')) return false;
  const broken = [...one.childNodes].some(node => {
    if (node.nodeType !== Node.TEXT_NODE || node.data.includes(' ') || one.matches('.text')) return false;
    const range = document.createRange();
    range.selectNodeContents(node);
    return new Set([...range.getClientRects()].map(part => part.top)).size > 1;
  });
  return broken || one.scrollWidth > one.clientWidth + 1;
}).map(one => one.innerText)"""
# Elements beyond the edge of the screen, but for what scrolls.
LOOSE = """() => [...document.querySelectorAll('body *')].filter(one => {
  if (!one.checkVisibility() || one.closest('.wide, pre, .heat')) return false;
  const edge = one.getBoundingClientRect();
  return edge.width > 0 && (edge.right > innerWidth + 1 || edge.left < -1);
}).map(one => `${one.tagName} ${one.className.baseVal ?? one.className} ${one.textContent.slice(0, 60)}`)"""
# A word in every colour of the page on every ground, with all the grounds that lie under it, the nearest first.
COLOURS = """() => {
  const found = new Map(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim(), parent = walk.currentNode.parentElement;
    if (!text || parent.tagName === 'title' || !parent.checkVisibility({visibilityProperty: true})) continue;
    const style = getComputedStyle(parent), behind = [];
    let opacity = 1;
    for (let one = parent; one; one = one.parentElement) {
      behind.push(getComputedStyle(one).backgroundColor);
      opacity *= getComputedStyle(one).opacity;
    }
    const one = {opacity, ink: parent instanceof SVGElement ? style.fill : style.color, behind};
    found.set(JSON.stringify(one), {text, ...one});
  }
  return [...found.values()];
}"""
Colour = tuple[float, float, float, float]


def colour(css: str) -> Colour:
    found = re.fullmatch(r"rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)", css)
    assert found, css
    red, green, blue = (float(found[i]) for i in (1, 2, 3))
    return red, green, blue, 1.0 if found[4] is None else float(found[4])


def over(top: Colour, below: Colour) -> Colour:
    red, green, blue = (a * top[3] + b * (1 - top[3]) for a, b in zip(top[:3], below[:3], strict=True))
    return red, green, blue, 1.0


def light(of: Colour) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in of[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(ink: str, behind: list[str], opacity: float = 1.0) -> float:
    """Between text and everything that lies under it, the nearest first."""
    ground: Colour = (255, 255, 255, 1)
    for layer in reversed(behind):
        ground = over(colour(layer), ground)
    red, green, blue, alpha = colour(ink)
    lights = sorted((light(over((red, green, blue, alpha * opacity), ground)), light(ground)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def faint(found: list[dict[str, Any]]) -> dict[str, float]:
    """Texts that WCAG calls too faint, with their colours."""
    least = {
        f"{one['text'][:40]}: {one['ink']} on {one['behind']}": contrast(one["ink"], one["behind"], one["opacity"])
        for one in found
    }
    return {words: value for words, value in least.items() if value < 4.5}
