// The drawing of the topology.

import { address, s } from "./dom.js";
import { count, milliseconds, percent, rate } from "./format.js";
import { layout } from "./layout.js";

const LABELS = 40; // edges, up to which each has its numbers beside it
const TONES = ["quiet", "good", "warn", "bad", "denied"];
let looked = ""; // the service that the pointer or the focus is on: kept when the drawing is made anew
const HEALTH = {
  passing: "all instances passing",
  partly: "some instances failing",
  failing: "all instances failing",
  none: "no instance",
};

/** The drawing in a frame that scrolls; `fit`: as small as it must be to be seen whole. */
export function drawing(nodes, edges, fit) {
  const { places, width, height, box } = layout(nodes, edges);
  const loops = edges.filter((edge) => edge.source !== edge.destination);
  const paths = loops.map((edge) => path(edge, places, box));
  const labels = loops.length <= LABELS ? loops.map((edge) => label(edge, places, box)) : [];
  const boxes = nodes.map((node) => shape(node, places.get(node.name), box));
  const svg = s(
    "svg",
    {
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": "Services and their calls; the table below says the same",
    },
    s("defs", {}, TONES.map(arrow)),
    s("g", { class: "live" }, paths),
    s("g", { "aria-hidden": "true" }, labels),
    s("g", {}, boxes),
  );
  watch(svg);
  const frame = document.createElement("div");
  frame.className = fit ? "graph fit" : "graph";
  frame.dataset.keep = "graph";
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Drawing of the topology");
  frame.append(svg);
  return frame;
}

/** How an edge looks: by what the policy says, then by its errors. */
export function tone(edge) {
  if (edge.reach === "none") return "denied";
  if (!edge.live?.rps && !edge.live?.connections_per_s) return "quiet";
  if (edge.live.error_ratio > 0.05) return "bad";
  return edge.live.error_ratio > 0 ? "warn" : "good";
}

function path(edge, places, box) {
  const look = tone(edge);
  const width = 1.3 + Math.min(4, Math.log10(1 + (edge.live?.rps ?? 0)) * 1.2);
  const d = curve(places.get(edge.source), places.get(edge.destination), box);
  return s("path", {
    class: `edge ${look}`,
    d,
    "stroke-width": width.toFixed(1),
    "marker-end": `url(#arrow-${look})`,
    "data-from": edge.source,
    "data-to": edge.destination,
    "aria-hidden": "true",
  });
}

/** The four points of an edge's curve. */
function points(from, to, box) {
  const [x1, y1] = [from.x + box.width, from.y + box.height / 2];
  const [x2, y2] = [to.x - 5, to.y + box.height / 2];
  if (to.x > from.x) {
    const bend = Math.max(36, (x2 - x1) / 2);
    return [x1, y1, x1 + bend, y1, x2 - bend, y2, x2, y2];
  }
  const below = Math.max(y1, y2) + box.height * 1.4; // back to the left, around below
  return [x1, y1, x1 + 70, below, x2 - 70, below, x2, y2];
}

function curve(from, to, box) {
  const [x1, y1, a, b, c, d, x2, y2] = points(from, to, box);
  return `M${x1},${y1} C${a},${b} ${c},${d} ${x2},${y2}`;
}

/** Where the words of an edge stand: in the gap behind its source, where no box is. */
function middle(from, to, box) {
  const found = points(from, to, box);
  const share = found[6] - found[0] > 2 * box.width ? 0.12 : 0.5;
  const at = (first) =>
    (1 - share) ** 3 * found[first] +
    3 * (1 - share) ** 2 * share * found[first + 2] +
    3 * (1 - share) * share ** 2 * found[first + 4] +
    share ** 3 * found[first + 6];
  return { x: at(0), y: at(1) - 4 };
}

function label(edge, places, box) {
  if (!edge.live?.rps) return null;
  const { x, y } = middle(places.get(edge.source), places.get(edge.destination), box);
  const { rps, error_ratio: share, p99_ms: slow } = edge.live;
  const more = share ? ` · ${percent(share)} errors` : slow ? ` · ${milliseconds(slow)}` : "";
  const near = { class: "label", x, y, "data-from": edge.source, "data-to": edge.destination };
  return s("text", near, rate(rps), s("tspan", { class: "small" }, more));
}

function shape(node, place, box) {
  const well = node.kind === "service" ? node.health : node.kind;
  const words = node.kind === "service" ? HEALTH[node.health] : node.kind;
  const below =
    node.kind === "service" ? `${node.protocol} · ${node.passing} of ${count(node.instances, "instance")}` : node.kind;
  return s(
    "a",
    {
      href: address("services", node.name),
      class: node.kind,
      "aria-label": `${node.name}, ${words}`,
      "data-name": node.name,
    },
    s("title", {}, `${node.name}: ${words}`),
    s("rect", { class: "box", x: place.x, y: place.y, width: box.width, height: box.height, rx: 8 }),
    s("circle", { class: well, cx: place.x + 14, cy: place.y + box.height / 2, r: 5 }),
    s("text", { x: place.x + 27, y: place.y + 15 }, short(node.name)),
    s("text", { class: "small", x: place.x + 27, y: place.y + 28 }, below),
  );
}

function short(name) {
  return name.length <= 20 ? name : `${name.slice(0, 19)}…`;
}

function arrow(look) {
  const marker = {
    id: `arrow-${look}`,
    class: look,
    viewBox: "0 0 8 8",
    refX: 6,
    refY: 4,
    markerWidth: 8,
    markerHeight: 8,
    orient: "auto",
    markerUnits: "userSpaceOnUse",
  };
  return s("marker", marker, s("path", { d: "M0,0 8,4 0,8z" }));
}

/** A service that is looked at shows its own calls, and the others step back. */
function watch(svg) {
  const choose = (name) => {
    looked = name;
    svg.classList.toggle("chosen", Boolean(name));
    const near = new Set([name]);
    for (const each of svg.querySelectorAll("[data-from]")) {
      const mine = each.dataset.from === name || each.dataset.to === name;
      each.classList.toggle("near", mine);
      if (mine) near.add(each.dataset.from).add(each.dataset.to);
    }
    for (const each of svg.querySelectorAll("a")) each.classList.toggle("near", near.has(each.dataset.name));
  };
  for (const each of svg.querySelectorAll("a")) {
    for (const event of ["pointerenter", "focus"]) each.addEventListener(event, () => choose(each.dataset.name));
    for (const event of ["pointerleave", "blur"]) each.addEventListener(event, () => choose(""));
  }
  if (looked) choose(looked);
}
