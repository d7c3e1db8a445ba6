// Tables that can be sorted and filtered, with the keyboard too. How each was sorted is kept while the page stays open.

import { h } from "./dom.js";

const LONGEST = 100; // rows, before somebody asks for the rest
const sorted = new Map();
const whole = new Set();

/**
 * A table. Columns: {title, value(row), cell(row)?, right?}; `value` is what is sorted by, `cell` what is shown.
 * `id` tells the table from others; `redraw` draws the page again.
 */
export function table({ id, caption, columns, rows, redraw, empty = "There is nothing to show." }) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  const order = sorted.get(id);
  const shown = order ? inOrder(rows, columns[order.column], order.down) : rows;
  const some = whole.has(id) ? shown : shown.slice(0, LONGEST);
  const head = columns.map((column, index) => heading(id, column, index, order, redraw));
  const body = some.map((row) =>
    h(
      "tr",
      {},
      columns.map((column, index) => cell(column, row, index)),
    ),
  );
  const more =
    some.length < shown.length &&
    h(
      "p",
      {},
      `The first ${some.length} of ${shown.length}. `,
      h(
        "button",
        {
          type: "button",
          id: `${id}-all`,
          on: {
            click: () => {
              whole.add(id);
              redraw();
            },
          },
        },
        "Show all",
      ),
    );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
    more,
  );
}

function heading(id, column, index, order, redraw) {
  const mine = order?.column === index;
  const sort = () => {
    sorted.set(id, { column: index, down: mine ? !order.down : false });
    redraw();
  };
  const mark = mine ? (order.down ? " ↓" : " ↑") : "";
  const button = h(
    "button",
    { type: "button", id: `${id}-by-${index}`, on: { click: sort } },
    `${column.title}${mark}`,
  );
  const state = mine ? (order.down ? "descending" : "ascending") : null;
  return h("th", { scope: "col", "aria-sort": state, class: column.right ? "right" : null }, button);
}

function cell(column, row, index) {
  const content = column.cell ? column.cell(row) : column.value(row);
  const shown = content === null || content === undefined || content === "" ? "–" : content;
  if (index === 0) return h("th", { scope: "row" }, shown);
  return h("td", { class: column.right ? "right" : null }, shown);
}

function inOrder(rows, column, down) {
  const by = (row) => column.value(row);
  const compared = (one, other) => {
    const [a, b] = [by(one), by(other)];
    if (a === b) return 0;
    if (a === null || a === undefined) return 1;
    if (b === null || b === undefined) return -1;
    return typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });
  };
  const found = [...rows].sort(compared);
  return down ? found.reverse() : found;
}

/** A field that filters; `wanted` is kept by the page. */
export function filter(id, label, wanted, changed) {
  const input = h("input", {
    type: "search",
    id,
    value: wanted,
    placeholder: "filter",
    "data-filter": true,
    autocomplete: "off",
    spellcheck: "false",
    on: { input: (event) => changed(event.target.value) },
  });
  return h("label", { class: "field" }, h("span", {}, label), input);
}

/** Whether a text has every word of the filter in it. */
export function matches(text, wanted) {
  return wanted
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.toLowerCase().includes(word));
}
