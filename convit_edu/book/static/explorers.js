// The explorers of the book: attention that a reader can move, with no library and no network.
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

// A picture seen through the positional attention of a head, each pixel a token: along the rows, then along the columns.
function looked([wx, wy, wd], values, [rows, columns]) {
  const along = (w, size) => Array.from({ length: size }, (_, at) =>
    softmax(Array.from({ length: size }, (_, k) => w * (k - at) + wd * (k - at) ** 2)));
  const across = along(wx, columns), down = along(wy, rows), half = [];
  for (let r = 0; r < rows; r++) {
    for (const shares of across) half.push(shares.reduce((sum, share, k) => sum + share * values[r * columns + k], 0));
  }
  return down.flatMap((shares) => across.map((_, c) => shares.reduce((sum, share, k) => sum + share * half[k * columns + c], 0)));
}

// v_pos of a head with strength alpha and centre (x, y), Eq 5; and the initial centres of so many heads.
const gaussian = (alpha, [x, y]) => [2 * alpha * x, 2 * alpha * y, -alpha];
function centres(heads) {
  const k = Math.sqrt(heads), middle = (k - 1) / 2;
  return Array.from({ length: heads }, (_, h) => [Math.floor(h / k) - middle, (h % k) - middle]);
}

const mean = (maps) => maps[0].map((_, k) => maps.reduce((sum, map) => sum + map[k], 0) / maps.length);

// --- words and colours

const signed = (x) => (x > 0 ? "+" : x < 0 ? "−" : "") + Math.abs(x);
const shown = (v) => (v >= 0.0995 ? v.toFixed(2) : v >= 0.0005 ? v.toFixed(3) : v > 0 ? "under 0.001" : "0");
const place = (k, columns) => `row ${Math.floor(k / columns) + 1}, column ${k % columns + 1}`;
function offset(query, key, columns) { // key minus query, x before y
  const [x, y] = [(k) => k % columns, (k) => Math.floor(k / columns)].map((part) => part(key) - part(query));
  return `offset ${signed(x)}, ${signed(y)}`;
}

const VIRIDIS = ("440154 471365 482475 463480 414487 3b528b 355f8d 2f6c8e 2a788e 25848e 21918c " +
  "1e9c89 22a884 2fb47c 44bf70 5ec962 7ad151 9bd93c bddf26 dfe318 fde725").split(" ")
  .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
function rgb(share) {
  const k = Math.min(19, Math.floor(share * 20)), to = VIRIDIS[k + 1];
  return VIRIDIS[k].map((from, n) => Math.round(from + (to[n] - from) * (share * 20 - k)));
}
const colour = (share) => `rgb(${rgb(share)})`;

// --- parts

// Grey values, 0 to 255, on a canvas.
function draw(canvas, values, high, wide) {
  [canvas.width, canvas.height] = [wide, high];
  const context = canvas.getContext("2d"), image = context.createImageData(wide, high);
  values.forEach((value, k) => image.data.set([value, value, value, 255], 4 * k));
  context.putImageData(image, 0, 0);
}

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
    table.addEventListener(event, ({ target }) => pick(cells.indexOf(target.closest("[role=gridcell]"))));
  }
  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!step) return;
    const column = chosen % columns + step[0];
    if (column >= 0 && column < columns) pick(chosen + step[0] + columns * step[1]);
    cells[chosen].focus();
    event.preventDefault();
  });
  // `at` is the chosen cell, `query` has a cross; `paint` colours a cell and gives what it is called.
  function draw([rows, wide], at, query, paint = (cell, k) => place(k, wide)) {
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
      cell.setAttribute("aria-label", paint(cell, k));
    });
  }
  return Object.assign(draw, { table });
}

// Paints a heat map, row by row, coloured from 0 to `top`.
const heat = (map, top) => (cell, k) => {
  cell.style.backgroundColor = colour(map[k] / top);
  return shown(map[k]);
};

function build(root) {
  const [parts, text] = ["text/html", "application/json"].map((type) => root.querySelector(`[type='${type}']`).text);
  const data = JSON.parse(text);
  root.insertAdjacentHTML("beforeend", `<form class="ui">${parts}</form>`); // a form: radio buttons of its own
  root.lastElementChild.addEventListener("submit", (event) => event.preventDefault());
  const form = Object.fromEntries([...root.querySelectorAll("[name]")].map((input) => [input.name, input]));
  const write = (part, text) => root.querySelectorAll(`.${part}`).forEach((place) => (place.textContent = text));
  // What the grids show: the query and the cell that is read, each grid moving one of them; `near` is an offset's.
  const view = {
    shape: data.grid, near: 25, write, update: () => update(),
    centre() {
      const [rows, columns] = this.shape;
      this.query = (rows >> 1) * columns + (columns >> 1);
      this.cursor = this.query + 1;
    },
    grids: [...root.querySelectorAll("[data-moves]")].map((table) => {
      const { moves } = table.dataset;
      return prepare(table, moves !== "query", (k) => ((view[moves] = k), update()));
    }),
    // Draw maps of the query's attention, one scale for all, and say what the last gives to the cursor's patch.
    show(maps, more = "", top = Math.max(...maps.flat()), query = this.query) {
      const { shape, cursor } = this, columns = shape[1], value = shown(maps[maps.length - 1][cursor]);
      this.grids[0](shape, this.query, query);
      maps.forEach((map, k) => this.grids[k + 1](shape, cursor, query, heat(map, top)));
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
      const told = slider.parentElement.querySelector("b");
      if (told) told.textContent = slider.getAttribute("aria-valuetext") || slider.value;
    }
  }
  root.addEventListener("input", (event) => update(event.target));
  root.addEventListener("click", ({ target }) => target.matches("button") && update(target));
  update();
  root.explorer = { values: () => values, numbers: { positional, gaussian, centres, colour } };
  root.classList.add("live"); // hides the still picture
}

// One explorer that cannot be built says so, keeps its still picture, and stops no other.
function tryToBuild(root) {
  try {
    build(root);
  } catch (error) {
    root.querySelector(".ui")?.remove();
    root.classList.add("broken");
    root.insertAdjacentHTML("beforeend", '<p role="status">Nothing to move here, the data of this explorer are damaged: <span></span></p>');
    root.lastElementChild.lastElementChild.textContent = error.message;
  }
}

// --- the kinds: each returns what draws it and gives the numbers drawn

const KINDS = {
  positional({ strength, heads, head, x, y, size, filter, picture, common }, data, view, root) {
    const [high, wide] = data.size, pixels = Uint8Array.from(atob(data.pixels), (sign) => sign.charCodeAt(0));
    if (pixels.length !== picture.options.length * high * wide) throw Error(`${picture.options.length} pictures need more pixels`);
    const canvases = [...root.querySelectorAll(".shot canvas")], cells = root.querySelectorAll(".kernel td");
    return () => {
      const number = +heads.value, all = centres(number), shape = [+size.value, +size.value], alpha = +strength.value;
      allow(head, (h) => h < number || (h === 16 && number > 1)); // 16: the mean of all
      allow(filter, (n) => n < 2 || number === 9); // 0: this head alone, 1: the mean, the others: 3 x 3 kernels
      x.disabled = y.disabled = number > 1;
      if (number > 1 && all[head.value]) [x.value, y.value] = all[head.value];
      const used = all[head.value] ? [[+x.value, +y.value]] : all;
      const over = (on, at) => mean(used.map((centre) => positional(gaussian(alpha, centre), on, at)));
      if (shape[0] !== view.shape[0]) (view.shape = shape), view.centre();
      const attention = over(shape, view.query), kernel = over([7, 7], 24), top = Math.max(...attention, ...kernel);
      const scale = common.checked ? top : undefined;
      view.grids[2]([7, 7], view.near, 24, heat(kernel, scale ?? Math.max(...kernel)));
      view.show([attention], `Kernel at ${offset(24, view.near, 7)}: ${shown(kernel[view.near])}.`, scale);
      view.write("summary", alpha ? `Standard deviation of a head: ${Math.sqrt(0.5 / alpha).toFixed(2)} patches.`
        : "At strength 0 a head looks at every patch alike.");
      // What the heads are worth, and the kernel and the picture that they make together.
      const by = number > 1 ? all : used, alone = +head.value < number ? +head.value : undefined;
      const worth = by.map((_, h) => filter.value > 1 ? data.filters[filter.value][h]
        : filter.value === "1" || alone === undefined ? 1 / by.length : +(h === alone || by.length === 1));
      const sum = (maps) => maps[0].map((_, k) => maps.reduce((total, map, h) => total + worth[h] * map[k], 0));
      const together = sum(by.map((centre) => positional(gaussian(alpha, centre), [7, 7], 24)));
      const near = [16, 17, 18, 23, 24, 25, 30, 31, 32].map((k) => together[k]);
      near.forEach((value, k) => (cells[k].textContent = value.toFixed(2).replace(/^-(0.00)$/, "$1").replace("-", "−")));
      const before = pixels.subarray(picture.value * high * wide, (+picture.value + 1) * high * wide);
      const after = sum(by.map((centre) => looked(gaussian(alpha, centre), before, [high, wide])));
      const exact = sum(by.map(([dx, dy]) => Array.from(before, (_, k) => {
        const [c, r] = [k % wide + dx, Math.floor(k / wide) + dy];
        return c >= 0 && c < wide && r >= 0 && r < high ? before[Math.floor(r) * wide + Math.floor(c)] : 0;
      })));
      const inner = after.map((value, k) => k % wide > 2 && k % wide < wide - 3 && k >= 3 * wide && k < (high - 3) * wide
        ? Math.abs(value - exact[k]) : 0);
      [before, after, exact].forEach((values, n) => draw(canvases[n], values.map(Math.abs), high, wide));
      const whole = by.every((centre) => centre.every(Number.isInteger));
      view.write("compared", whole ? `Away from the border the two differ by at most ${Math.max(...inner).toFixed(1)} of 255 grey levels.`
        : "These centres lie between pixels: no kernel of whole pixels equals them.");
      canvases[2].parentElement.toggleAttribute("hidden", !whole);
      return { attention, kernel, near, after, exact };
    };
  },

};

const tools = { prepare, heat, allow, rgb, shown, place, offset, mean };
// A page may also hold explorers whose scripts were taken out, because nobody trusts them: those stay pictures.
const waiting = ".convit-explorer:not(.live, .broken):has(> script)";
return { kinds: KINDS, tools, start: () => document.querySelectorAll(waiting).forEach(tryToBuild) };
})();
