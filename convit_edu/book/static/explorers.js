// The explorers of the book: attention and learning curves that a reader can move, with no library and no network.
// convit_edu/book/explorers.py writes their data, controls and empty grids, and puts this file behind them.
window.convitExplorers ||= (() => {
"use strict";

// --- numbers: pure functions, which the tests compare with Python's

function softmax(scores) {
  const powers = scores.map((s) => Math.exp(s - Math.max(...scores)));
  return powers.map((p) => p / powers.reduce((a, b) => a + b));
}

// Positional attention of one query, row by row: a softmax over rows times a softmax over columns.
function positional([wx, wy, wd], [rows, columns], query) {
  const axis = (w, size, at) => softmax(Array.from({ length: size }, (_, k) => w * (k - at) + wd * (k - at) ** 2));
  const across = axis(wx, columns, query % columns);
  return axis(wy, rows, Math.floor(query / columns)).flatMap((share) => across.map((other) => share * other));
}

// v_pos of a head with strength alpha and centre (x, y), Eq 5; and the initial centres of so many heads.
const gaussian = (alpha, [x, y]) => [2 * alpha * x, 2 * alpha * y, -alpha];
function centres(heads) {
  const k = Math.sqrt(heads), middle = (k - 1) / 2;
  return Array.from({ length: heads }, (_, h) => [Math.floor(h / k) - middle, (h % k) - middle]);
}

const mix = (gate, content, position) => content.map((c, k) => (1 - gate) * c + gate * position[k]);
const mean = (maps) => maps[0].map((_, k) => maps.reduce((sum, map) => sum + map[k], 0) / maps.length);

// Bytes from text as packing.py writes it: five signs of 85 for every four bytes.
const SIGNS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$:.()*+-;,=>?@^_`{|}~";
function bytes(text) {
  const view = new DataView(new ArrayBuffer(text.length / 5 * 4));
  for (let k = 0; k < text.length; k += 5) {
    view.setUint32(k / 5 * 4, [...text.slice(k, k + 5)].reduce((n, sign) => 85 * n + SIGNS.indexOf(sign), 0));
  }
  return new Uint8Array(view.buffer);
}

// One row of packed attention: its largest value in two bytes, then 4 or 8 bits a value.
function unpack(packed, bits, tokens, row) {
  const at = row * (2 + Math.ceil(tokens * bits / 8)), largest = (packed[at] + 256 * packed[at + 1]) / 65535;
  const level = (k) => (bits === 8 ? packed[at + 2 + k] : (packed[at + 2 + (k >> 1)] >> 4 * (k & 1)) & 15);
  return Array.from({ length: tokens }, (_, k) => largest * level(k) / (2 ** bits - 1));
}

// --- words and colours

const signed = (x) => (x > 0 ? "+" : x < 0 ? "−" : "") + Math.abs(x);
const shown = (v) => (v >= 0.0995 ? v.toFixed(2) : v >= 0.0005 ? v.toFixed(3) : v > 0 ? "under 0.001" : "0");
const place = (k, columns) => `row ${Math.floor(k / columns) + 1}, column ${k % columns + 1}`;
function offset(query, key, columns) { // key minus query, x before y
  const [x, y] = [(k) => k % columns, (k) => Math.floor(k / columns)].map((part) => part(key) - part(query));
  return `offset ${signed(x)}, ${signed(y)}`;
}

const VIRIDIS = ("440154 471365 482475 463480 414487 3b528b 355f8d 2f6c8e 2a788e 25848e 21918c " +
  "1e9c89 22a884 2fb47c 44bf70 5ec962 7ad151 9bd93c bddf26 dfe318 fde725").split(" ");
function colour(share) {
  const k = Math.min(19, Math.floor(share * 20));
  const [from, to] = [k, k + 1].map((n) => [0, 2, 4].map((at) => parseInt(VIRIDIS[n].slice(at, at + 2), 16)));
  return `rgb(${from.map((c, n) => Math.round(c + (to[n] - c) * (share * 20 - k)))})`;
}

// --- parts

// Leave only those entries of a list whose number passes, and go to the first if the chosen one does not.
function allow(list, passes) {
  for (const entry of list.options) entry.hidden = entry.disabled = !passes(+entry.value);
  if (!passes(+list.value)) list.value = [...list.options].find((entry) => !entry.disabled).value;
}

// An empty grid comes alive: the arrow keys, a click, a touch or (`hover`) the pointer choose a cell.
function prepare(table, hover, choose) {
  let cells = [], columns, chosen;
  function pick(k) {
    if (cells[k]) choose(k);
  }
  for (const event of hover ? ["click", "pointerover"] : ["click"]) {
    table.addEventListener(event, ({ target }) => pick(cells.indexOf(target)));
  }
  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!step) return;
    const column = chosen % columns + step[0];
    if (column >= 0 && column < columns) pick(chosen + step[0] + columns * step[1]);
    cells[chosen].focus();
    event.preventDefault();
  });
  // `map`, row by row, is coloured from 0 to `top`; `at` is the chosen cell; `query` has a cross.
  return ([rows, wide], at, query, map, top) => {
    [columns, chosen] = [wide, at];
    if (cells.length !== rows * columns) {
      const cell = '<div role="gridcell" data-lm-suppress-shortcuts="true"></div>'; // JupyterLab: the keys are ours
      table.innerHTML = `<div role="row">${cell.repeat(columns)}</div>`.repeat(rows);
      cells = [...table.querySelectorAll("[role=gridcell]")];
    }
    cells.forEach((cell, k) => {
      cell.tabIndex = k === at ? 0 : -1;
      cell.className = k === query ? "query" : "";
      cell.setAttribute("aria-selected", k === at);
      cell.setAttribute("aria-label", map ? shown(map[k]) : place(k, columns));
      if (map) cell.style.backgroundColor = colour(map[k] / top);
    });
  };
}

function build(root) {
  const [parts, text] = ["text/html", "application/json"].map((type) => root.querySelector(`[type='${type}']`).text);
  const data = JSON.parse(text);
  root.insertAdjacentHTML("beforeend", `<div class="ui">${parts}</div>`);
  const form = Object.fromEntries([...root.querySelectorAll("[name]")].map((input) => [input.name, input]));
  const write = (part, text) => (root.querySelector(`.${part}`).textContent = text);
  // What the grids show: the query and the cell that is read, each grid moving one of them; `near` is an offset's.
  const view = {
    shape: data.grid, near: 25, write,
    centre() {
      const [rows, columns] = this.shape;
      this.query = (rows >> 1) * columns + (columns >> 1);
      this.cursor = this.query + 1;
    },
    grids: [...root.querySelectorAll("[role=grid]")].map((table) => {
      const { moves } = table.dataset;
      return prepare(table, moves !== "query", (k) => ((view[moves] = k), update()));
    }),
    // Draw maps of the query's attention, one scale for all, and say what the last gives to the cursor's patch.
    show(maps, more = "", top = Math.max(...maps.flat()), query = this.query) {
      const { shape, cursor } = this, columns = shape[1], value = shown(maps[maps.length - 1][cursor]);
      this.grids[0](shape, this.query, query);
      maps.forEach((map, k) => this.grids[k + 1](shape, cursor, query, map, top));
      write("largest", `${shown(top)} of the attention`);
      const from = query < 0 ? "class token" : place(query, columns);
      const far = query < 0 ? "" : `; ${offset(query, cursor, columns)}`;
      write("reading", `Query ${from}; key ${place(cursor, columns)}: ${value} of the attention${far}. ${more}`);
    },
  };
  if (data.grid) view.centre();
  const draw = KINDS[root.dataset.kind](form, data, view, root);
  let values;
  function update(changed) {
    values = draw(changed);
    for (const slider of root.querySelectorAll("[type=range]")) {
      slider.parentElement.querySelector("b").textContent = slider.value;
    }
  }
  root.addEventListener("input", (event) => update(event.target));
  update();
  root.explorer = { values: () => values, numbers: { positional, gaussian, centres, mix, bytes, unpack, colour } };
  root.classList.add("live"); // hides the still picture
}

// --- the kinds: each returns what draws it and gives the numbers drawn

const KINDS = {
  positional({ strength, heads, head, x, y, size }, data, view) {
    return () => {
      const number = +heads.value, all = centres(number), shape = [+size.value, +size.value];
      allow(head, (h) => h < number || (h === 16 && number > 1)); // 16: the mean of all
      x.disabled = y.disabled = number > 1;
      if (number > 1 && all[head.value]) [x.value, y.value] = all[head.value];
      const used = all[head.value] ? [[+x.value, +y.value]] : all;
      const over = (on, at) => mean(used.map((centre) => positional(gaussian(+strength.value, centre), on, at)));
      if (shape[0] !== view.shape[0]) (view.shape = shape), view.centre();
      const attention = over(shape, view.query), kernel = over([7, 7], 24), top = Math.max(...attention, ...kernel);
      view.grids[2]([7, 7], view.near, 24, kernel, top);
      view.show([attention], `Kernel at ${offset(24, view.near, 7)}: ${shown(kernel[view.near])}.`, top);
      view.write("summary", `Standard deviation of a head: ${Math.sqrt(0.5 / strength.value).toFixed(2)} patches.`);
      return { attention, kernel };
    };
  },

  gate({ layer, head, gate }, { gates, position, content, bits }, view) {
    const packed = content.map(bytes), tokens = view.shape[0] * view.shape[1];
    return (changed) => {
      const learned = gates[layer.value][head.value], { query, cursor } = view;
      if (changed !== gate && changed) gate.value = learned;
      const seen = unpack(packed[layer.value], bits, tokens, head.value * tokens + query);
      const stood = positional(position[layer.value][head.value], view.shape, query);
      const maps = [seen, stood, mix(+gate.value, seen, stood)], top = Math.max(...seen, ...stood);
      view.show(maps, `Content ${shown(seen[cursor])}, position ${shown(stood[cursor])}.`, top);
      view.write("summary", `This head has learned the gate ${learned}.`);
      return { content: maps[0], position: maps[1], mixture: maps[2] };
    };
  },

  trained({ model, step, layer, head, query }, { models, bits }, view) {
    return () => {
      const { heads, tokens, maps } = models[model.value], size = tokens[layer.value];
      const extra = size - view.shape[0] * view.shape[1]; // 1 where there is a class token, else 0
      allow(head, (h) => h <= heads);
      allow(query, (which) => which <= extra); // 1: the class token
      const packed = bytes(maps[step.value][layer.value]), patch = query.value === "0";
      const one = (h) => unpack(packed, bits, size, h * size + (patch ? extra + view.query : 0));
      const all = Array.from({ length: heads }, (_, h) => one(h)), attention = all[head.value] || mean(all);
      const rest = extra ? `The class token gets ${shown(attention[0])}.` : "";
      view.show([attention.slice(extra)], rest, undefined, patch ? undefined : -1);
      view.write("summary", `Recorded to within ${(Math.max(...attention) / 2 / (2 ** bits - 1)).toFixed(3)}.`);
      return { attention };
    };
  },

  // Python has drawn a chart for each cell and put its numbers into words; here one is chosen and read.
  curves({ steps, share, when }, { cells, left, width }, view, root) {
    return () => {
      const there = (s) => cells.findIndex((cell) => cell.steps === +steps.value && cell.share === s);
      allow(share, (s) => there(s) >= 0);
      const chosen = there(+share.value), { x, words, values } = cells[chosen], k = when.value - 1;
      root.querySelectorAll(".chart").forEach((chart, n) => chart.toggleAttribute("hidden", n !== chosen));
      root.querySelector(".line").style.left = `${left + width * x[k] / +steps.value}%`;
      view.write("reading", words[k]);
      return values[k];
    };
  },
};

// A page may also hold explorers whose scripts were taken out, because nobody trusts them: those stay pictures.
return { start: () => document.querySelectorAll(".convit-explorer:not(.live):has(> script)").forEach(build) };
})();
window.convitExplorers.start();
