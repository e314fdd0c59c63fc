// Measures pages in frames of a browser, once as they open and once with everything unfolded; returns what is wrong.
const TEXT_APART = 3, CONTRAST = 4.5;

const colour = text => { const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number); return {rgb: [r, g, b], a}; };
const luminance = rgb => {
  const [r, g, b] = rgb.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (one, other) => {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const paper = element => {
  for (let at = element; at; at = at.parentElement) {
    const found = colour(getComputedStyle(at).backgroundColor);
    if (found.a > 0.99) return found.rgb;
  }
  return [255, 255, 255];
};

// The lines of text that can be seen: of what scrolls, only what lies within its box.
function lines(doc) {
  const found = [], walker = doc.createTreeWalker(doc.body, NodeFilter.SHOW_TEXT), range = doc.createRange();
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || element.closest("title, desc, style") || !element.checkVisibility()) continue;
    range.selectNodeContents(node);
    const box = element.closest(".scroll")?.getBoundingClientRect();
    for (const rect of range.getClientRects()) {
      const hidden = box && (rect.right > box.right + 1 || rect.left < box.left - 1);
      if (rect.width > 1 && !hidden) found.push({rect, element, node, text: node.data.trim().slice(0, 40)});
    }
  }
  return found;
}

function* overlaps(found) {
  found.sort((a, b) => a.rect.top - b.rect.top);
  for (let i = 0; i < found.length; i++) {
    for (let j = i + 1; j < found.length && found[j].rect.top < found[i].rect.bottom; j++) {
      const [a, b] = [found[i].rect, found[j].rect];
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (found[i].node !== found[j].node && wide > TEXT_APART && high > TEXT_APART)
        yield `overlap: "${found[i].text}" and "${found[j].text}"`;
    }
  }
}

function* beyond(doc) {
  const width = doc.documentElement.clientWidth;
  if (doc.documentElement.scrollWidth > width) yield `the page is ${doc.documentElement.scrollWidth} wide, not ${width}`;
  for (const element of doc.body.querySelectorAll("*")) {
    if (element.parentElement.closest(".scroll, svg") || !element.checkVisibility()) continue;
    const rect = element.getBoundingClientRect();
    if (rect.width && (rect.left < -1 || rect.right > width + 1))
      yield `beyond the window: ${element.tagName} "${element.textContent.trim().slice(0, 40)}"`;
  }
}

function* pale(found) {
  for (const {element, text} of found) {
    const style = getComputedStyle(element), svg = element.closest("svg");
    const ink = colour(svg ? style.fill : style.color).rgb, rate = contrast(ink, paper(svg ?? element));
    if (rate < CONTRAST) yield `contrast ${rate.toFixed(2)}: "${text}"`;
  }
}

// Scrolled to its end, a table still shows what its rows are called and what they are read against.
function* lost(doc) {
  for (const box of doc.querySelectorAll(".scroll")) {
    const [name, reference] = ["tbody th", "tbody .reference"].map(each => box.querySelector(each));
    if (!reference || !name.checkVisibility()) continue;
    box.scrollLeft = 1e6;
    const [whole, first, second] = [box, name, reference].map(each => each.getBoundingClientRect());
    if (Math.abs(first.left - whole.left) > 1 || Math.abs(second.left - first.right) > 1 || second.right > whole.right)
      yield `out of sight: ${name.textContent} at ${first.left}, ${reference.textContent} at ${second.left}`;
    for (const [rect, cell] of [[first, name], [second, reference]]) {
      const top = doc.elementFromPoint(rect.right - 3, rect.top + 3);
      if (!cell.contains(top)) yield `covered: ${cell.textContent}`;
    }
    box.scrollLeft = 0;
  }
}

function measured(doc) {
  const found = lines(doc);
  return {lines: found.length, wrong: [...new Set([...beyond(doc), ...overlaps(found), ...pale(found), ...lost(doc)])]};
}

window.onload = () => {
  const all = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const doc = frame.contentDocument, closed = measured(doc);
    for (const each of doc.querySelectorAll("details")) each.open = true;
    all[frame.title] = {closed, open: measured(doc)};
  }
  document.body.textContent = JSON.stringify(all);
};
