// What was changed, by whom, when and why; and what exactly.

import { ask } from "./ask.js";
import { diff, facts, h, link, part } from "./dom.js";
import { count, moment } from "./format.js";
import { filter, matches, table } from "./table.js";

export const every = 10;
const state = { wanted: "" };

export function load(asked) {
  return asked.name ? ask("change", { revision: asked.name }) : ask("history");
}

export function draw(data, asked, redraw) {
  return asked.name ? one(data) : all(data, redraw);
}

function all(data, redraw) {
  const rows = data.changes.filter((row) =>
    matches(`${row.revision} ${row.who} ${row.why} ${row.changed.join(" ")}`, state.wanted),
  );
  return [
    h("h1", { tabindex: "-1" }, "History"),
    h(
      "p",
      { class: "lead" },
      `The policy's changes, the newest first${data.all > data.changes.length ? `: the last ${data.changes.length} of ${data.all}` : ""}.`,
    ),
    h(
      "div",
      { class: "bar" },
      filter("history-filter", "Who, why, or a document", state.wanted, (value) => {
        state.wanted = value;
        redraw();
      }),
    ),
    h(
      "section",
      { class: "part", "aria-label": "Changes" },
      table({
        id: "changes",
        caption: "Changes of the policy",
        columns: COLUMNS,
        rows,
        redraw,
        empty: "No change is like that.",
      }),
    ),
  ];
}

const COLUMNS = [
  {
    title: "Revision",
    value: (row) => row.revision,
    cell: (row) => link(String(row.revision), "history", row.revision),
  },
  { title: "At", value: (row) => row.at, cell: (row) => moment(row.at) },
  { title: "Who", value: (row) => row.who },
  { title: "Changed", value: (row) => row.changed.length, cell: (row) => changed(row.changed) },
  { title: "Why", value: (row) => row.why },
];

function changed(places) {
  return places.length > 3 ? `${places.slice(0, 3).join(", ")} and ${places.length - 3} more` : places.join(", ");
}

function one(data) {
  return [
    h("h1", { tabindex: "-1" }, `Revision ${data.revision}`),
    h("p", { class: "lead" }, link("History", "history"), ` › ${data.revision}`),
    part(
      "The change",
      facts([
        ["at", moment(data.at)],
        ["who", data.who],
        ["why", data.why || "–"],
        ["documents", count(data.edits.length, "document")],
      ]),
    ),
    data.edits.map((edit) =>
      part(`${edit.kind} ${edit.name}`, diff(edit.diff, `Difference of ${edit.kind} ${edit.name}`)),
    ),
  ];
}
