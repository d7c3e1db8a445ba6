// Elements out of text. Names, paths and reasons are other people's words: they become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Properties: `on` is a mapping of listeners, true and false are for attributes without a value. */
export function h(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

/** The same for SVG. */
export function s(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, name), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

/** A link to a page; the parts are escaped. */
export function link(text, page, ...parts) {
  return h("a", { href: address(page, ...parts) }, text);
}

/** The address of a page. */
export function address(page, ...parts) {
  return `#/${[page, ...parts.map((part) => encodeURIComponent(part))].join("/")}`;
}

/** The address of a page with what it is asked for. */
export function asking(page, asked) {
  return `#/${page}?${new URLSearchParams(asked)}`;
}

/** A word on a coloured ground. `tone`: good, warn, bad or quiet. The word says all; the colour only repeats it. */
export function badge(text, tone = "quiet") {
  return h("span", { class: `badge ${tone}` }, text);
}

/** A headed part of a page. */
export function part(title, ...children) {
  const id = `part-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { "aria-labelledby": id, class: "part" }, h("h2", { id }, title), children);
}

/** Text in the width of letters, to be scrolled with the keyboard too. */
export function code(text, label) {
  return h("pre", { tabindex: "0", role: "region", "aria-label": label }, text);
}

/** A unified diff; what came and what went is marked by more than its colour already. */
export function diff(text, label) {
  const lines = text.split("\n").map((line) => {
    const kind =
      line.startsWith("+++") || line.startsWith("---") ? "head" : { "+": "came", "-": "went", "@": "head" }[line[0]];
    return h("span", { class: kind ?? "same" }, `${line}\n`);
  });
  return h("pre", { class: "diff", tabindex: "0", role: "region", "aria-label": label }, lines);
}

/** Names and values. */
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** A field with its label. */
export function field(label, control) {
  return h("label", { class: "field" }, h("span", {}, label), control);
}
