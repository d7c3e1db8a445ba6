// Who may call whom: every source beside every destination, and who says so.

import { ask } from "./ask.js";
import { asking, badge, facts, h, link, part } from "./dom.js";
import { count } from "./format.js";
import { filter, matches } from "./table.js";

export const every = 10;
const WINDOW = 40; // rows and columns that are drawn at a time
const MARKS = { all: "✓", some: "◐", none: "✕" };
const WORDS = { all: "allowed", some: "depends on the request", none: "denied" };
const state = { sources: "", destinations: "", named: false, row: 0, column: 0, at: null };

export function load() {
  return ask("intentions");
}

export function draw(data, asked, redraw) {
  const change = (name) => (value) => {
    Object.assign(state, { [name]: value, row: 0, column: 0 });
    redraw();
  };
  const named = new Set(data.destinations.flatMap((each) => each.rules.map((rule) => rule.source)));
  const busy = (each) => !state.named || each.rules.some((rule) => rule.source !== "*");
  const sources = data.sources.filter((name) => matches(name, state.sources) && (!state.named || named.has(name)));
  const destinations = data.destinations.filter((each) => matches(each.name, state.destinations) && busy(each));
  state.row = Math.min(state.row, last(sources.length));
  state.column = Math.min(state.column, last(destinations.length));
  const rows = sources.slice(state.row, state.row + WINDOW);
  const columns = destinations.slice(state.column, state.column + WINDOW);
  return [
    h("h1", { tabindex: "-1" }, "Intentions"),
    h(
      "p",
      { class: "lead" },
      "Who may call whom, by row and column. Arrow keys go from cell to cell, Enter shows who says so.",
    ),
    h(
      "div",
      { class: "bar" },
      filter("sources-filter", "Sources (rows)", state.sources, change("sources")),
      filter("destinations-filter", "Destinations (columns)", state.destinations, change("destinations")),
      h("label", { class: "check" }, checkbox(state.named, change("named")), "only those that an intention names"),
      turner("rows", sources.length, "row", redraw),
      turner("columns", destinations.length, "column", redraw),
    ),
    h("div", { class: "two" }, matrix(data, rows, columns, redraw), details(data)),
    legend(data),
  ];
}

function last(length) {
  return Math.floor(Math.max(0, length - 1) / WINDOW) * WINDOW;
}

function checkbox(checked, changed) {
  const box = h("input", { type: "checkbox", id: "named", on: { change: (event) => changed(event.target.checked) } });
  box.checked = checked;
  return box;
}

/** Buttons to the next rows or columns, where there are more than fit. */
function turner(what, length, field, redraw) {
  if (length <= WINDOW) return null;
  const move = (step) => () => {
    state[field] += step;
    redraw();
  };
  const upto = Math.min(state[field] + WINDOW, length);
  return h(
    "div",
    { role: "group", "aria-label": what },
    h(
      "button",
      {
        type: "button",
        id: `${what}-back`,
        disabled: state[field] === 0,
        "aria-label": `earlier ${what}`,
        on: { click: move(-WINDOW) },
      },
      "‹",
    ),
    h("span", { class: "muted" }, ` ${what} ${state[field] + 1}–${upto} of ${length} `),
    h(
      "button",
      {
        type: "button",
        id: `${what}-on`,
        disabled: upto >= length,
        "aria-label": `further ${what}`,
        on: { click: move(WINDOW) },
      },
      "›",
    ),
  );
}

/** What holds for a pair: {reach, words, rule, reason, origin, by}; `by` is exact, any or default. */
export function verdict(data, source, destination, held = destination) {
  const rules = held.rules;
  const rule = rules.find((each) => each.source === source) ?? rules.find((each) => each.source === "*");
  if (rule) return { ...rule, by: rule.source === "*" ? "any" : "exact" };
  const reach = held.default === "allow" ? "all" : "none";
  return {
    reach,
    words: held.default,
    rule: "mesh/default_action",
    reason: "",
    origin: data.default_origin,
    by: "default",
  };
}

/** What shadow would say in place of what holds; null where it is the same. */
function shadowed(data, source, destination, said) {
  if (!destination.shadow) return null;
  const would = verdict(data, source, destination, destination.shadow);
  return would.reach === said.reach && would.rule === said.rule ? null : would;
}

function matrix(data, rows, columns, redraw) {
  if (!rows.length || !columns.length) return h("p", { class: "empty" }, "No service is like that.");
  const head = columns.map((each) => h("th", { scope: "col", title: each.name }, h("span", {}, each.name)));
  const body = rows.map((source) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, source),
      columns.map((destination) => cell(data, source, destination)),
    ),
  );
  const grid = h(
    "table",
    { role: "grid", "aria-label": "Intentions: sources in rows, destinations in columns" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "source ↓ destination →"), head)),
    h("tbody", {}, body),
  );
  const cells = [...grid.querySelectorAll("td")];
  const held = cells.find((each) => each.id === state.at) ?? cells[0];
  held.tabIndex = 0;
  grid.addEventListener("keydown", (event) => moved(event, grid));
  grid.addEventListener("click", (event) => picked(event.target.closest("td"), redraw));
  return h("div", { class: "matrix", "data-keep": "matrix" }, grid);
}

function cell(data, source, destination) {
  const said = verdict(data, source, destination);
  const doubt = shadowed(data, source, destination, said);
  const id = `cell ${source} ${destination.name}`;
  const self = source === destination.name ? " self" : "";
  return h(
    "td",
    {
      id,
      class: (said.by === "default" ? "default" : said.reach) + self + (doubt ? " doubt" : ""),
      tabindex: "-1",
      role: "gridcell",
      "aria-selected": String(state.at === id),
      "aria-label": `${source} to ${destination.name}: ${WORDS[said.reach]}, by ${said.rule}${doubt ? `; in shadow: ${WORDS[doubt.reach]}` : ""}`,
      "data-source": source,
      "data-destination": destination.name,
    },
    MARKS[said.reach],
  );
}

function picked(chosen, redraw) {
  if (!chosen) return;
  state.at = chosen.id;
  redraw();
  document.getElementById(state.at)?.focus({ preventScroll: true });
}

function moved(event, grid) {
  const now = event.target.closest("td");
  if (!now) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    now.click();
    return;
  }
  const rows = [...grid.tBodies[0].rows];
  const [row, column] = [rows.indexOf(now.parentElement), now.cellIndex];
  const aims = {
    ArrowRight: [row, column + 1],
    ArrowLeft: [row, column - 1],
    ArrowDown: [row + 1, column],
    ArrowUp: [row - 1, column],
    Home: [row, 1],
    End: [row, rows[row].cells.length - 1],
  };
  const aim = aims[event.key];
  if (!aim) return;
  event.preventDefault();
  const next = rows[aim[0]]?.cells[aim[1]];
  if (!next || next.tagName !== "TD") return;
  now.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function details(data) {
  const [, source, name] = (state.at ?? "").split(" ");
  const destination = data.destinations.find((each) => each.name === name);
  if (!destination)
    return part("The pair", h("p", { class: "empty" }, "Choose a cell: here it says who decides, and why."));
  const said = verdict(data, source, destination);
  const doubt = shadowed(data, source, destination, said);
  const tones = { all: "good", some: "warn", none: "bad" };
  const by = {
    exact: "an intention for this pair",
    any: "an intention for every source",
    default: "the mesh's default: nothing names the pair",
  };
  return part(
    "The pair",
    h(
      "p",
      {},
      link(source, "services", source),
      " → ",
      link(name, "services", name),
      " ",
      badge(WORDS[said.reach], tones[said.reach]),
    ),
    facts([
      ["says", h("span", { class: "mono" }, said.rule)],
      ["what", said.words],
      ["that is", by[said.by]],
      ["reason", said.reason || "–"],
      ["from", said.origin || "–"],
      ["protocol", destination.protocol],
      ...(doubt ? [["in shadow", `${WORDS[doubt.reach]}, by ${doubt.rule}`]] : []),
    ]),
    h("p", {}, h("a", { href: asking("what-if", { source, destination: name }) }, "What if … a request of this pair")),
  );
}

function legend(data) {
  const rules = data.destinations.reduce((sum, each) => sum + each.rules.length, 0);
  const words = [
    "✓ allowed",
    "◐ decided by request",
    "✕ denied",
    "grey: by the mesh's default",
    "dotted: shadow would say otherwise",
    `${count(rules, "rule")} for ${count(data.destinations.length, "destination")}`,
  ];
  return h(
    "ul",
    { class: "legend" },
    words.map((each) => h("li", {}, each)),
  );
}
