// The frame: which page is shown, when it is asked for again, and what the keys do.

import { Problem, ask, enter } from "./ask.js";
import { badge, h } from "./dom.js";
import { openHelp, onKey } from "./keys.js";
import * as certificates from "./certificates.js";
import * as history from "./history.js";
import * as hosts from "./hosts.js";
import * as intentions from "./intentions.js";
import * as refusals from "./refusals.js";
import * as services from "./services.js";
import * as topology from "./topology.js";
import * as whatif from "./whatif.js";

// Each page: {title, load(asked) -> data, draw(data, asked, redraw) -> elements, every: seconds}.
const PAGES = {
  topology: ["Topology", topology],
  intentions: ["Intentions", intentions],
  "what-if": ["What if", whatif],
  services: ["Services", services],
  hosts: ["Hosts", hosts],
  certificates: ["Certificates", certificates],
  history: ["History", history],
  refusals: ["Refusals", refusals],
};
const main = document.getElementById("main");
const say = (text) => {
  document.getElementById("said").textContent = text;
};
let shown = { hash: null, text: "", data: null };
let paused = false;
let refused = null; // why the link opened nothing
let timer = 0;

/** The page that the address names, and what it is asked for. */
function wanted() {
  const [path, query = ""] = location.hash.replace(/^#\//, "").split("?");
  const [name, ...parts] = path.split("/");
  const page = PAGES[name] ? name : "topology";
  return {
    page,
    asked: { ...Object.fromEntries(new URLSearchParams(query)), name: parts.map(decodeURIComponent).join("/") },
  };
}

async function show() {
  clearTimeout(timer);
  const { page, asked } = wanted();
  const [title, { load, draw, every }] = PAGES[page];
  const hash = location.hash;
  const fresh = shown.hash !== hash;
  if (fresh) mark(page, asked.name);
  try {
    const data = await load(asked);
    if (location.hash !== hash) return;
    const text = JSON.stringify(data);
    const redraw = () => put(draw(data, asked, redraw));
    if (fresh || text !== shown.text) redraw();
    shown = { hash, text, data };
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (location.hash !== hash) return;
    shown = { hash, text: "", data: null };
    put([h("h1", { tabindex: "-1" }, title), told(problem.status === 401 ? (refused ?? problem) : problem)]);
  }
  if (fresh) arrived(title);
  if (every) timer = setTimeout(again, every * 1000);
}

function again() {
  if (paused || document.hidden) timer = setTimeout(again, 1000);
  else show();
}

/** Put a page in place of the last one; what was focused stays so, with its cursor. */
function put(elements) {
  const held = document.activeElement;
  const at =
    held?.id && main.contains(held) ? { id: held.id, start: held.selectionStart, end: held.selectionEnd } : null;
  const scrolled = new Map(
    [...main.querySelectorAll("[data-keep]")].map((each) => [each.dataset.keep, [each.scrollLeft, each.scrollTop]]),
  );
  main.replaceChildren(...[elements].flat(Infinity).filter(Boolean));
  for (const each of main.querySelectorAll("[data-keep]")) {
    const [left, top] = scrolled.get(each.dataset.keep) ?? [0, 0];
    each.scrollTo(left, top);
  }
  if (!at) return;
  const next = document.getElementById(at.id);
  next?.focus({ preventScroll: true });
  if (next && at.start !== undefined && at.start !== null) next.setSelectionRange(at.start, at.end);
}

function told(problem) {
  return h(
    "div",
    { class: "note bad", role: "alert" },
    h("p", {}, problem.message),
    problem.nextStep && h("p", {}, problem.nextStep),
  );
}

/** The head of the frame for a page that was gone to. */
function mark(page, name) {
  document.title = [name, PAGES[page][0], "meshagent"].filter(Boolean).join(" · ");
  for (const each of document.querySelectorAll("#pages a")) {
    if (each.dataset.page === page) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
}

function arrived(title) {
  const first = !main.dataset.shown;
  main.dataset.shown = "yes";
  if (first) return;
  window.scrollTo(0, 0);
  main.querySelector("h1")?.focus({ preventScroll: true });
  say(title);
}

async function head() {
  const place = document.getElementById("facts");
  try {
    const mesh = await ask("mesh");
    const state = mesh.store.ok ? badge("store answers", "good") : badge("store is away", "bad");
    const open = badge(`default ${mesh.default_action}`, mesh.default_action === "deny" ? "quiet" : "warn");
    const problems = mesh.problems.length ? badge(mesh.problems[0], "bad") : null;
    const revision = h("span", {}, "revision ", h("b", {}, String(mesh.revision)));
    const parts = [h("b", {}, mesh.trust_domain), revision, open, state, problems].filter(Boolean);
    place.replaceChildren(...parts);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    place.replaceChildren(badge(problem.message, "bad"));
  }
  setTimeout(head, 5000);
}

function frame() {
  const links = Object.entries(PAGES).map(([page, [title]]) =>
    h("li", {}, h("a", { href: `#/${page}`, "data-page": page }, title)),
  );
  document.getElementById("pages").append(h("ul", {}, links));
  const pause = document.getElementById("pause");
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
  });
  document.getElementById("theme").addEventListener("click", otherTheme);
  document.getElementById("keys").addEventListener("click", openHelp);
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  nameTheme();
  onKey({
    go: (page) => {
      location.hash = `#/${page}`;
    },
    theme: otherTheme,
  });
}

function otherTheme() {
  const order = ["auto", "dark", "light"];
  const next = order[(order.indexOf(localStorage.getItem("theme") ?? "auto") + 1) % order.length];
  localStorage.setItem("theme", next);
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  nameTheme();
}

function nameTheme() {
  document.getElementById("theme").textContent = `Theme: ${localStorage.getItem("theme") ?? "auto"}`;
}

frame();
try {
  await enter();
} catch (problem) {
  if (!(problem instanceof Problem)) throw problem;
  refused = problem;
}
window.addEventListener("hashchange", show);
head();
await show();
