// Services, who calls whom, how much and how well: as a drawing, and the same as a table.

import { ask } from "./ask.js";
import { badge, field, h, link } from "./dom.js";
import { count, milliseconds, percent, rate } from "./format.js";
import { drawing } from "./graph.js";
import { filter, matches, table } from "./table.js";

export const every = 3;
const MANY = 60; // services, above which only those with calls are drawn until somebody asks for all
const state = { wanted: "", view: "graph", scope: null, size: "full" };

export function load() {
  return ask("topology");
}

export function draw(data, asked, redraw) {
  const scope = state.scope ?? (data.nodes.length > MANY ? "calls" : "all");
  const { nodes, edges } = chosen(data, scope);
  const change = (name) => (value) => {
    state[name] = value;
    redraw();
  };
  const shown = state.view === "graph" && nodes.length ? drawing(nodes, edges, state.size === "fit") : null;
  return [
    h("h1", { tabindex: "-1" }, "Topology"),
    h(
      "p",
      { class: "lead" },
      "An arrow is a call that is declared, allowed by name, or made. Live numbers are of the last seconds.",
    ),
    data.why && h("p", { class: "note warn" }, `Of this host alone: ${data.why}`),
    stats(data),
    missing(data.traffic),
    h(
      "div",
      { class: "bar" },
      filter("topology-filter", "Services", state.wanted, change("wanted")),
      field(
        "Show",
        select("topology-scope", scope, change("scope"), {
          all: "all services",
          calls: "with calls",
          live: "with live calls",
        }),
      ),
      field("As", select("topology-view", state.view, change("view"), { graph: "drawing and table", table: "table" })),
      field("Size", select("topology-size", state.size, change("size"), { full: "to be read", fit: "to fit" })),
      h("span", { class: "muted right" }, `${nodes.length} of ${count(data.nodes.length, "service")}`),
    ),
    shown,
    shown && legend(),
    h(
      "section",
      { class: "part", "aria-label": "Calls" },
      table({
        id: "edges",
        caption: "Calls between services",
        columns: COLUMNS,
        rows: busiest(edges),
        redraw,
        empty: "Nobody calls anybody yet: no intention names two services, and no call was seen.",
      }),
    ),
  ];
}

const COLUMNS = [
  { title: "From", value: (edge) => edge.source, cell: (edge) => link(edge.source, "services", edge.source) },
  {
    title: "To",
    value: (edge) => edge.destination,
    cell: (edge) => link(edge.destination, "services", edge.destination),
  },
  { title: "Policy", value: (edge) => edge.reach, cell: policy },
  { title: "Requests", right: true, value: (edge) => edge.live?.rps, cell: (edge) => rate(edge.live?.rps) },
  { title: "Errors", right: true, value: (edge) => edge.live?.error_ratio, cell: errors },
  { title: "p50", right: true, value: (edge) => edge.live?.p50_ms, cell: (edge) => milliseconds(edge.live?.p50_ms) },
  { title: "p99", right: true, value: (edge) => edge.live?.p99_ms, cell: (edge) => milliseconds(edge.live?.p99_ms) },
  { title: "Under way", right: true, value: (edge) => edge.live?.active },
  {
    title: "New connections",
    right: true,
    value: (edge) => edge.live?.connections_per_s,
    cell: (edge) => rate(edge.live?.connections_per_s),
  },
];

export function policy(edge) {
  const said = {
    all: ["allowed", "good"],
    some: ["by request", "warn"],
    none: ["denied", "bad"],
    unknown: ["not known here", "quiet"],
  }[edge.reach];
  return h("span", { title: `says ${edge.rule}` }, badge(...said));
}

function busiest(edges) {
  return [...edges].sort((one, other) => (other.live?.rps ?? 0) - (one.live?.rps ?? 0));
}

function errors(edge) {
  if (!edge.live?.rps) return "–";
  const share = edge.live.error_ratio;
  return share ? badge(percent(share), share > 0.05 ? "bad" : "warn") : "0 %";
}

function chosen(data, scope) {
  const named = (name) => matches(name, state.wanted);
  const wanted = data.edges.filter((edge) => scope !== "live" || edge.live?.rps || edge.live?.connections_per_s);
  const edges = state.wanted ? wanted.filter((edge) => named(edge.source) || named(edge.destination)) : wanted;
  const joined = new Set(edges.flatMap((edge) => [edge.source, edge.destination]));
  const alone = (node) => scope === "all" && named(node.name);
  return { edges, nodes: data.nodes.filter((node) => joined.has(node.name) || alone(node)) };
}

function stats(data) {
  const services = data.nodes.filter((node) => node.kind === "service");
  const unwell = services.filter((node) => node.health === "failing" || node.health === "partly");
  const rows = data.edges.map((edge) => edge.live).filter(Boolean);
  const requests = rows.reduce((sum, live) => sum + live.rps, 0);
  const failed = rows.reduce((sum, live) => sum + live.rps * live.error_ratio, 0);
  const facts = [
    [services.length, "services"],
    [unwell.length, "with failing instances"],
    [data.edges.length, "pairs that call"],
    [rows.length ? rate(requests) : "–", "requests"],
    [requests ? percent(failed / requests) : "–", "errors"],
  ];
  return h(
    "ul",
    { class: "stats" },
    facts.map(([value, name]) => h("li", {}, h("b", {}, String(value)), h("span", {}, name))),
  );
}

/** Whose numbers are not among them. */
export function missing(traffic) {
  const hosts = Object.entries(traffic.missing);
  if (!hosts.length) return null;
  return h(
    "details",
    { class: "note warn" },
    h("summary", {}, `Live numbers of ${count(hosts.length, "host")} are missing`),
    h(
      "ul",
      {},
      hosts.map(([host, why]) => h("li", {}, `${host}: ${why}`)),
    ),
  );
}

function select(id, value, changed, options) {
  const made = Object.entries(options).map(([each, text]) =>
    h("option", { value: each, selected: each === value }, text),
  );
  return h("select", { id, on: { change: (event) => changed(event.target.value) } }, made);
}

function legend() {
  const words = [
    "green arrows: calls without errors",
    "amber and red: with errors (over 5 %)",
    "grey: no call just now",
    "dashed red: calls that the policy denies",
    "the dot: health of the instances",
    "dashed box: outside the mesh",
  ];
  return h(
    "ul",
    { class: "legend" },
    words.map((each) => h("li", {}, each)),
  );
}
