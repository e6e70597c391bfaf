// The explorer of trained networks: convit.js computes them, explorers.js has the grids. Three forms of one thing:
// "whole" (chapter 08), "layer" (one layer, chapter 04), "small" (one head and a wide slider, the front page).
window.convitExplorers.kinds.network ||= (form, data, view, root) => {
"use strict";
const { prepare, heat, allow, rgb, shown, place, offset } = window.convitExplorers.tools, engine = window.convitEngine;

// --- data: networks and pictures, which this page or one before has brought

const need = (name) => window.convitData?.[name] ?? (() => { throw Error(`${name} has not been loaded`); })();
const unpacked = (packed) => packed.made ||= engine.unpack(packed);
const given = need("pictures"), [high, wide] = given.size, each = high * wide;
const pictures = given.made ||= { ...given, pixels: engine.bytes(given.text) };
const keys = data.networks, names = keys.map((key) => data.names[key]); // ["convit", "deit"], as they are called
const [rows, columns] = need(keys[0]).config.grid, N = rows * columns;
const rest = pictures.pixels.length - pictures.labels.length * each; // at most three bytes, which fill up the text
if (rest < 0 || rest > 3 || pictures.labels.some((label) => !(label in given.classes))) {
  throw Error(`${pictures.labels.length} labels, and pixels for ${Math.floor(pictures.pixels.length / each)} pictures`);
}
for (const key of keys) {
  const { config } = need(key);
  if (high !== config.grid[0] * config.patch_size || wide !== config.grid[1] * config.patch_size) {
    throw Error(`pictures of ${high} x ${wide} pixels do not fit ${key}`);
  }
}
let networks = keys.map((key) => unpacked(need(key)));
const { depth, num_heads: H, local_up_to_layer: L } = networks[0].config;
view.shape = [rows, columns];
view.query = data.query;
view.cursor = data.cursor;

const stored = (k) => pictures.pixels.subarray(k * each, (k + 1) * each);

// --- state: what the controls do not hold themselves

const forced = Array.from({ length: L }, () => Array(H).fill(null)); // gates in place of the learned ones
let runs, hows, before = stored(data.picture), ran = {};
const own = new Uint8Array(each); // the reader's drawing
const { write } = view, on = (name) => !!form[name]?.checked, number = (name, otherwise = 0) => +(form[name]?.value ?? otherwise);
const layer = () => number("layer", data.layer), head = () => number("head", data.head);
const chosen = () => +(root.querySelector("[name=picture]:checked")?.value ?? data.picture);
const gateOf = (l, h) => forced[l][h] ?? networks[0].gates[l][h];

// The patches of a grid moved and shuffled: for each place the patch that is put there.
function order() {
  const [x, y, seed] = ["x", "y", "shuffle"].map((name) => number(name)), places = Array.from({ length: N }, (_, k) => k);
  let state = seed;
  for (let k = N - 1; seed && k; k--) { // Fisher and Yates, by a small generator: the same for everyone
    state = (1103515245 * state + 12345) % 2147483648;
    const other = state % (k + 1);
    [places[k], places[other]] = [places[other], places[k]];
  }
  const around = (k, size) => (k % size + size) % size;
  return places.map((_, k) => places[around(Math.floor(k / columns) - y, rows) * columns + around(k % columns - x, columns)]);
}

// --- pictures

function paint(canvas, values, shuffled) {
  const context = canvas.getContext("2d"), image = context.createImageData(wide, high), side = wide / columns;
  [canvas.width, canvas.height] = [wide, high];
  for (let k = 0; k < each; k++) {
    const [x, y] = [k % wide, Math.floor(k / wide)], here = Math.floor(y / side) * columns + Math.floor(x / side);
    const from = shuffled ? shuffled[here] : here;
    const at = (Math.floor(from / columns) * side + y % side) * wide + from % columns * side + x % side;
    image.data.set([values[at], values[at], values[at], 255], 4 * k);
  }
  context.putImageData(image, 0, 0);
}
root.querySelectorAll(".gallery canvas").forEach((canvas, k) => paint(canvas, stored(k)));

// A pen: by pointer, or by the arrow keys with the space bar for a dot.
const pad = root.querySelector(".pad canvas");
if (pad) {
  let at = [wide >> 1, high >> 1], down = false;
  const show = () => {
    paint(pad, own);
    const context = pad.getContext("2d");
    if (document.activeElement === pad && !down) (context.fillStyle = "#e69f00"), context.fillRect(at[0], at[1], 1, 1);
    view.update();
  };
  const dot = (x, y) => {
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const [c, r] = [x + dx, y + dy];
        if (c >= 0 && c < wide && r >= 0 && r < high) own[r * wide + c] = on("eraser") ? 0 : Math.max(own[r * wide + c], dx && dy ? 140 : 255);
      }
    }
  };
  const move = (event) => {
    const box = pad.getBoundingClientRect();
    at = [Math.floor((event.clientX - box.left) / box.width * wide), Math.floor((event.clientY - box.top) / box.height * high)];
    if (down) dot(...at), show();
  };
  pad.addEventListener("pointerdown", (event) => (down = true, pad.setPointerCapture?.(event.pointerId), move(event)));
  pad.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (down = false));
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0], " ": [0, 0] }[event.key];
    if (!step) return;
    at = [Math.min(wide - 1, Math.max(0, at[0] + step[0])), Math.min(high - 1, Math.max(0, at[1] + step[1]))];
    if (event.key === " ") dot(...at);
    show();
    event.preventDefault();
  });
  for (const event of ["focus", "blur"]) pad.addEventListener(event, show);
  paint(pad, own);
}

// --- boards: where every head looks, a small map for each

const boards = [...root.querySelectorAll("[data-board]")].map((table) => {
  const n = +table.dataset.board; // which network
  return [n, prepare(table, false, (k) => {
    if (data.form === "whole" && form.layer) form.layer.value = Math.floor(k / H);
    if (form.head) form.head.value = k % H;
    view.update();
  })];
});
// Colours by share of the largest value, as a picture of four bytes a pixel holds them.
const inks = Uint32Array.from({ length: 1025 }, (_, k) => {
  const [red, green, blue] = rgb(k / 1024);
  return (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
});
function drawBoard(draw, n) {
  const whole = data.form === "whole", kinds = ["position", "content", "mixed"], which = kinds[number("which", 2)];
  const lines = whole ? runs[n].layers.map((_, l) => [l, which]) : kinds.map((kind) => [layer(), kind]);
  draw([lines.length, H], whole ? layer() * H + head() : 2 * H + head(), -1, (cell, k) => {
    const [l, kind] = lines[Math.floor(k / H)], map = row(n, l, k % H, kind);
    const canvas = cell.querySelector("canvas") || cell.appendChild(Object.assign(document.createElement("canvas"), { width: columns, height: rows }));
    canvas.hidden = !map;
    const top = map && Math.max(...map);
    if (map) {
      const image = new ImageData(columns, rows), pixels = new Uint32Array(image.data.buffer);
      map.forEach((share, at) => (pixels[at] = inks[Math.round(1024 * share / top)]));
      canvas.getContext("2d").putImageData(image, 0, 0);
    }
    const most = map && `most at ${place(map.indexOf(top), columns)}`;
    return `layer ${l + 1}, head ${k % H + 1}, ${kind}: ${most || "there is none"}`;
  });
}

// What one query gives to the patches; the class token, where there is one, stands before them and is left out.
function row(n, l, h, kind) {
  const { [kind]: map, tokens } = runs[n].layers[l], extra = tokens - N, token = number("asks") === 1;
  if (!map) return undefined;
  const query = token && extra ? 0 : extra + view.query, at = (h * tokens + query) * tokens;
  return map.subarray(at + extra, at + tokens);
}
const listed = (map) => map && Array.from(map);

// --- answers

function probabilities(logits) {
  const powers = Array.from(logits, (l) => Math.exp(l - Math.max(...logits))), sum = powers.reduce((a, b) => a + b);
  return powers.map((p) => p / sum);
}
const answers = root.querySelector(".answers");
if (answers) {
  const bar = "<td><i></i><span></span></td>".repeat(names.length);
  answers.innerHTML = `<caption>What each network answers</caption><thead><tr><th scope="col">class</th>${names.map((name) =>
    `<th scope="col">${name}</th>`).join("")}</tr></thead><tbody>${given.classes.map((name) => `<tr><th scope="row">${name}</th>${bar}</tr>`).join("")}</tbody>`;
}
const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)} %`;

// --- accuracy over the stored pictures

const score = data.form === "whole" && engine.scorer(pictures, networks.length);
let scored = "", waiting;
function scoreSoon() {
  const settings = JSON.stringify([hows, number("step", -1)]);
  if (!score || settings === scored) return;
  scored = settings;
  clearTimeout(waiting);
  waiting = setTimeout(() => score(networks, hows, (right, of) => {
    const told = names.map((name, n) => `${name} ${right[n]}`).join(", ");
    root.querySelector(".score").textContent = `Right of ${of} stored pictures: ${told}`;
    root.explorer.score = of === pictures.labels.length && { settings, right: [...right] };
  }), 120);
}

// --- training: other moments come when they are asked for

const moments = () => window.convitData.moments;
function choose(step) {
  if (step === data.steps.length - 1) return keys.map((key) => unpacked(need(key)));
  const found = keys.map((key) => moments()[key]?.[data.steps[step]]);
  write("later", found.every(Boolean) ? "" : `The networks after ${data.steps[step]} steps are not here.`);
  return found.every(Boolean) ? found.map(unpacked) : networks;
}
if (form.step) {
  const address = root.querySelector("[data-moments]").dataset.moments;
  if (!moments() && !address) {
    form.step.disabled = true;
    write("later", "Run this cell with a kernel to move through training as well.");
  }
  let asked = false;
  const load = () => {
    if (asked || moments() || !address) return;
    asked = true;
    const script = document.createElement("script");
    script.src = address;
    script.onload = () => view.update(form.step);
    script.onerror = () => write("later", "The other moments of training could not be loaded.");
    document.head.append(script);
  };
  for (const event of ["focus", "pointerenter", "input"]) form.step.addEventListener(event, load, { once: true });
}

// --- drawing

return (changed) => {
  const did = changed?.name;
  if (did === "trained") forced.forEach((gates) => gates.fill(null));
  if (did === "clear") own.fill(0);
  if (did === "copy") own.set(before);
  if (did === "clear" || did === "copy") paint(pad, own);
  const drawing = chosen() < 0;
  root.querySelector(".pad")?.toggleAttribute("hidden", !drawing);
  if (form.step) {
    const step = +form.step.value;
    if (step === data.steps.length - 1 || moments()) networks = choose(step);
    form.step.setAttribute("aria-valuetext", `after ${data.steps[step]} steps`);
  }
  if (form.layer && form.scope) allow(form.scope, (scope) => layer() < L || scope === 2); // 0 head, 1 layer, 2 all layers
  const scope = number("scope", 2), gated = scope === 2 ? forced.map((_, l) => l) : [layer()];
  const heads = scope === 0 ? [head()] : Array.from({ length: H }, (_, h) => h);
  const pairs = gated.flatMap((l) => heads.map((h) => [l, h])).filter(([l]) => l < L);
  const moved = did === "gate" || did === "wide";
  if (moved) for (const [l, h] of pairs) forced[l][h] = did === "wide" ? 1 - form.wide.value : +form.gate.value;
  const gate = pairs.reduce((sum, [l, h]) => sum + gateOf(l, h), 0) / pairs.length;
  if (form.gate && !moved) form.gate.value = gate;
  if (form.wide && !moved) form.wide.value = 1 - gate;
  const moves = order(), plain = moves.every((from, k) => from === k);
  if (!drawing) before = stored(chosen());
  const pixels = drawing ? own : before;
  const gates = forced.map((each) => [...each]), shared = { order: plain ? undefined : moves, positions: !on("zero") };
  hows = networks.map((network) => ({ ...shared, gates: network.gates.length ? gates : undefined })); // a DeiT has none
  // A network runs again, and its board is drawn again, where something that it sees has changed.
  const inputs = hows.map((how) => JSON.stringify([how, chosen()]));
  const fresh = networks.map((network, n) => drawing || inputs[n] !== ran.inputs?.[n] || network !== ran.networks[n]);
  runs = networks.map((network, n) => fresh[n] ? engine.forward(network, pixels, pictures, { ...hows[n], maps: true }) : runs[n]);
  const looked = [view.query, layer(), head(), number("which"), number("asks")].join(), elsewhere = looked !== ran.view;
  ran = { inputs, networks, view: looked };

  const canvas = view.canvas ||= document.createElement("canvas");
  paint(canvas, pixels, moves);
  view.grids[0].table.style.backgroundImage = `url(${canvas.toDataURL()})`;
  const hasToken = runs[0].layers[layer()].tokens > N || (data.form === "whole" && runs[1]?.layers[layer()].tokens > N);
  if (form.asks) allow(form.asks, (which) => which === 0 || hasToken);
  const token = number("asks") === 1, query = token ? -1 : view.query, { cursor } = view;
  const found = Object.fromEntries(["position", "content", "mixed"].map((kind) => [kind, listed(row(0, layer(), head(), kind))]));
  const other = runs[1] && listed(row(1, layer(), head(), "mixed"));
  const maps = data.maps.map((kind) => kind === "other" ? other : found[kind]);
  const common = Math.max(...maps.filter(Boolean).flat());
  view.grids[0]([rows, columns], view.query, query);
  maps.forEach((map, k) => {
    const top = on("common") ? common : Math.max(...(map ?? [1]));
    view.grids[k + 1]([rows, columns], cursor, query, map ? heat(map, top) : (cell) => ((cell.style.backgroundColor = "#0000"), "none"));
  });
  for (const [n, draw] of boards) if (fresh[n] || elsewhere) drawBoard(draw, n);

  const chances = runs.map(({ logits }) => probabilities(logits)), truth = drawing ? -1 : pictures.labels[chosen()];
  answers?.querySelectorAll("tbody tr").forEach((line, c) => {
    line.classList.toggle("true", c === truth);
    line.querySelectorAll("td").forEach((cell, n) => {
      cell.firstElementChild.style.width = `${100 * chances[n][c]}%`;
      cell.lastElementChild.textContent = percent(chances[n][c]);
    });
  });
  const says = chances.map((p, n) => `${names[n]} says ${given.classes[p.indexOf(Math.max(...p))]} (${percent(Math.max(...p))})`);
  const truly = drawing ? "Your drawing" : `This is: ${given.classes[truth]}`;
  const where = query < 0 ? "the class token" : place(query, columns);
  const values = ["position", "content", "mixed"].filter((kind) => found[kind]).map((kind) => `${kind} ${shown(found[kind][cursor])}`);
  const far = query < 0 ? "" : `, ${offset(query, cursor, columns)}`;
  write("saying", `${truly}. ${says.join("; ")}.`);
  write("reading", data.form === "small" ? `${truly}. ${says.join("; ")}. Gate ${gate.toFixed(2)}.`
    : `Layer ${layer() + 1}, head ${head() + 1}. Query ${where}; key ${place(cursor, columns)}${far}: ${values.join(", ")}.`);
  if (form.gate) {
    const learned = pairs.reduce((sum, [l, h]) => sum + networks[0].gates[l][h], 0) / pairs.length;
    const plainly = layer() < L ? "" : `Layer ${layer() + 1} has no gate, it is plain self-attention. `;
    write("summary", `${plainly}Learned gate${pairs.length > 1 ? "s, on average" : ""}: ${learned.toFixed(2)}.`);
  }
  write("largest", on("common") ? `${shown(common)} of the attention` : `the largest of each map; of the mixture ${shown(Math.max(...found.mixed))}`);
  scoreSoon();
  return { ...found, other, logits: runs.map(({ logits }) => [...logits]), gates: forced.map((_, l) => forced[l].map((_, h) => gateOf(l, h))), order: moves };
};
};
