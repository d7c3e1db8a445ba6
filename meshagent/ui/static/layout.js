// Where services stand in the drawing: callers on the left, what they call to the right of them. Pure.

const BOX = { width: 158, height: 36 };
const GAP = { x: 108, y: 16 };
const TALL = 12; // boxes, above which columns begin at the top: their middle may be out of sight
const SWEEPS = 4;
const DEEPEST = 9; // layers: beyond them a service stands right behind the first of its callers, not behind the last

/** {places: Map(name -> {x, y}), width, height, box} for nodes [{name}] and edges [{source, destination}]. */
export function layout(nodes, edges) {
  const names = nodes.map((node) => node.name);
  const known = new Set(names);
  const kept = edges.filter(
    (edge) => known.has(edge.source) && known.has(edge.destination) && edge.source !== edge.destination,
  );
  const forward = withoutCircles(names, kept);
  const layers = deepest(layersOf(names, forward, Math.max), () => layersOf(names, forward, Math.min));
  order(layers, forward);
  return placed(layers, longestColumn(names.length));
}

function longestColumn(count) {
  return Math.max(10, Math.ceil(Math.sqrt(count) * 1.7));
}

/** Edges by source; one that leads back to where a walk came from is left out. */
function withoutCircles(names, edges) {
  const targets = new Map(names.map((name) => [name, []]));
  for (const edge of edges) targets.get(edge.source).push(edge.destination);
  const called = new Set(edges.map((edge) => edge.destination));
  const starts = [...names.filter((name) => !called.has(name)), ...names];
  const forward = new Map(names.map((name) => [name, []]));
  const state = new Map();
  for (const start of starts) {
    if (state.has(start)) continue;
    const stack = [[start, 0]];
    state.set(start, "open");
    while (stack.length) {
      const top = stack.at(-1);
      const next = targets.get(top[0])[top[1]++];
      if (next === undefined) {
        state.set(top[0], "done");
        stack.pop();
      } else if (state.get(next) !== "open") {
        forward.get(top[0]).push(next);
        if (!state.has(next)) {
          state.set(next, "open");
          stack.push([next, 0]);
        }
      }
    }
  }
  return forward;
}

function deepest(layers, flat) {
  return layers.length > DEEPEST ? flat() : layers;
}

/** Each service one layer to the right of one of its callers, which `choose` says; who calls nobody and is not called comes last. */
function layersOf(names, forward, choose) {
  const waiting = new Map(names.map((name) => [name, 0]));
  for (const targets of forward.values()) for (const target of targets) waiting.set(target, waiting.get(target) + 1);
  const alone = names.filter((name) => !waiting.get(name) && !forward.get(name).length);
  const depth = new Map();
  const ready = names.filter((name) => !waiting.get(name) && forward.get(name).length);
  for (const name of ready) depth.set(name, 0);
  while (ready.length) {
    const name = ready.shift();
    for (const target of forward.get(name)) {
      const next = depth.get(name) + 1;
      depth.set(target, choose(depth.get(target) ?? next, next));
      waiting.set(target, waiting.get(target) - 1);
      if (!waiting.get(target)) ready.push(target);
    }
  }
  const layers = [];
  for (const name of names) if (depth.has(name)) (layers[depth.get(name)] ??= []).push(name);
  return alone.length ? [...layers, alone] : layers;
}

/** Every service near the middle of those that it is joined to, in the layer before and behind it by turns. */
function order(layers, forward) {
  const joined = new Map();
  const join = (one, other) => joined.set(one, [...(joined.get(one) ?? []), other]);
  for (const [source, targets] of forward) {
    for (const target of targets) {
      join(source, target);
      join(target, source);
    }
  }
  const at = new Map();
  const note = (layer) => layer.forEach((name, index) => at.set(name, (index + 0.5) / layer.length));
  layers.forEach(note);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    for (const layer of sweep % 2 ? [...layers].reverse() : layers) {
      const middle = (name) => {
        const others = joined.get(name) ?? [];
        return others.length ? others.reduce((sum, other) => sum + at.get(other), 0) / others.length : at.get(name);
      };
      const by = new Map(layer.map((name) => [name, middle(name)]));
      layer.sort((one, other) => by.get(one) - by.get(other));
      note(layer);
    }
  }
}

function placed(layers, longest) {
  const columns = layers.flatMap((layer) => {
    const parts = Math.ceil(layer.length / longest);
    const size = Math.ceil(layer.length / parts);
    return Array.from({ length: parts }, (_, part) => layer.slice(part * size, (part + 1) * size));
  });
  const tallest = Math.max(1, ...columns.map((column) => column.length));
  const height = tallest * (BOX.height + GAP.y) + GAP.y;
  const places = new Map();
  columns.forEach((column, across) => {
    const step = Math.min(height / column.length, (BOX.height + GAP.y) * 2);
    const top = tallest > TALL ? GAP.y / 2 : (height - step * column.length) / 2;
    column.forEach((name, down) => {
      places.set(name, { x: 16 + across * (BOX.width + GAP.x), y: top + step * (down + 0.5) - BOX.height / 2 });
    });
  });
  return { places, width: 32 + columns.length * (BOX.width + GAP.x) - GAP.x, height, box: BOX };
}
