// A trained ConViT or DeiT, computed in the page: patches, GPSA as chapter 04 writes it, the whole network.
//
// convit_edu/book/networks.py packs the weights. Shapes: N tokens, H heads, d width of a head, D = H * d; an array is
// flat and row by row. All of it is one function, so that a Worker can be made of its text.
window.convitEngine ||= (() => {
const engine = () => {
"use strict";

// --- what networks.py has written

// Bytes from five signs for every four.
const SIGNS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$:.()*+-;,=>?@^_`{|}~";
const WORTH = Object.fromEntries([...SIGNS].map((sign, k) => [sign.charCodeAt(0), k]));
function bytes(text) {
  const view = new DataView(new ArrayBuffer(text.length / 5 * 4));
  for (let k = 0, at = 0; k < text.length; k += 5, at += 4) {
    let number = 0;
    for (let n = k; n < k + 5; n++) number = 85 * number + WORTH[text.charCodeAt(n)];
    view.setUint32(at, number);
  }
  return new Uint8Array(view.buffer);
}

function half(bits) { // float16
  const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * fraction / 1024);
}

// {config, weights: {name: Float32Array}}. An Error says what is wrong with a network that is not whole.
function unpack({ config, tensors, text }) {
  const content = bytes(text), view = new DataView(content.buffer), weights = {};
  let at = 0;
  for (const [name, shape, kind] of tensors) {
    const size = shape.reduce((a, b) => a * b), rows = shape[0] === 1 ? shape[1] : shape[0];
    if (at + (kind === "half" ? 2 * size : 2 * rows + size) > content.length) throw Error(`the weights end before ${name}`);
    const values = weights[name] = new Float32Array(size), start = at + 2 * rows;
    for (let k = 0; k < size; k++) {
      values[k] = kind === "half" ? half(view.getUint16(at + 2 * k, true))
        : half(view.getUint16(at + 2 * Math.floor(k * rows / size), true)) * view.getInt8(start + k);
      if (!Number.isFinite(values[k])) throw Error(`${name} holds what is no number`);
    }
    at += kind === "half" ? 2 * size : 2 * rows + size;
  }
  const [rows, columns] = config.grid, D = config.embed_dim;
  if (weights.pos_embed?.length !== rows * columns * D || D % config.num_heads) throw Error("the weights do not fit the network");
  return { config, weights, gates: Array.from({ length: config.local_up_to_layer }, (_, layer) =>
    Array.from(weights[`blocks.${layer}.attn.gating_param`], (lambda) => 1 / (1 + Math.exp(-lambda)))) };
}

// --- layers

// x (n, D) times W^T (D', D), D' even, plus b: (n, D'). Four rows of x and two of W at a time: what is read serves twice.
function linear(x, n, W, b) {
  const D = x.length / n, out = W.length / D, y = new Float32Array(n * out);
  for (let row = 0; row < n; row += 4) {
    const at = [0, 1, 2, 3].map((k) => Math.min(row + k, n - 1)), [x0, x1, x2, x3] = at.map((k) => k * D);
    const [y0, y1, y2, y3] = at.map((k) => k * out);
    for (let o = 0; o < out; o += 2) {
      let s0 = b ? b[o] : 0, s1 = s0, s2 = s0, s3 = s0, t0 = b ? b[o + 1] : 0, t1 = t0, t2 = t0, t3 = t0;
      for (let k = 0, w = o * D; k < D; k++, w++) {
        const first = W[w], second = W[w + D], a = x[x0 + k], b = x[x1 + k], c = x[x2 + k], d = x[x3 + k];
        s0 += first * a; s1 += first * b; s2 += first * c; s3 += first * d;
        t0 += second * a; t1 += second * b; t2 += second * c; t3 += second * d;
      }
      y[y0 + o] = s0; y[y1 + o] = s1; y[y2 + o] = s2; y[y3 + o] = s3;
      y[y0 + o + 1] = t0; y[y1 + o + 1] = t1; y[y2 + o + 1] = t2; y[y3 + o + 1] = t3;
    }
  }
  return y;
}

function layerNorm(x, n, weight, bias) {
  const D = weight.length, y = new Float32Array(n * D);
  for (let at = 0; at < n * D; at += D) {
    let mean = 0, variance = 0;
    for (let k = 0; k < D; k++) mean += x[at + k] / D;
    for (let k = 0; k < D; k++) variance += (x[at + k] - mean) ** 2 / D;
    const scale = 1 / Math.sqrt(variance + 1e-6);
    for (let k = 0; k < D; k++) y[at + k] = (x[at + k] - mean) * scale * weight[k] + bias[k];
  }
  return y;
}

function erf(x) { // to 1.5e-7: Abramowitz and Stegun 7.1.26
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const rest = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - rest * Math.exp(-x * x));
}

function gelu(x) {
  for (let k = 0; k < x.length; k++) x[k] *= 0.5 * (1 + erf(x[k] * Math.SQRT1_2));
  return x;
}

// The softmax of `size` scores from `at` on, in place.
function softmax(scores, at, size) {
  let top = -Infinity, sum = 0;
  for (let k = at; k < at + size; k++) top = Math.max(top, scores[k]);
  for (let k = at; k < at + size; k++) sum += scores[k] = Math.exp(scores[k] - top);
  for (let k = at; k < at + size; k++) scores[k] /= sum;
}

// --- attention

// softmax(Q K^T / sqrt(d)), Eq 1, of the first n queries: (H, n, N). Queries and keys stand in x (N, width), keys D behind.
function content(x, N, H, D, n = N) {
  const width = x.length / N, d = D / H, scale = 1 / Math.sqrt(d), A = new Float32Array(H * n * N);
  for (let h = 0, at = 0; h < H; h++) {
    for (let query = 0; query < n; query++, at += N) {
      for (let key = 0, q = query * width + h * d, j = D + h * d; key < N; key++, j += width) {
        let score = 0;
        for (let k = 0; k < d; k++) score += x[q + k] * x[j + k];
        A[at + key] = score * scale;
      }
      softmax(A, at, N);
    }
  }
  return A;
}

// softmax(v_pos · r), Eqs 4 and 7: (H, N, N), from pos_proj.weight (H, 3). The bias cancels.
function position(weight, [rows, columns]) {
  const N = rows * columns, H = weight.length / 3, A = new Float32Array(H * N * N);
  for (let h = 0, at = 0; h < H; h++) {
    const [wx, wy, wd] = weight.subarray(3 * h, 3 * h + 3);
    for (let query = 0; query < N; query++, at += N) {
      for (let key = 0; key < N; key++) {
        const dx = key % columns - query % columns, dy = Math.floor(key / columns) - Math.floor(query / columns);
        A[at + key] = wx * dx + wy * dy + wd * (dx * dx + dy * dy);
      }
      softmax(A, at, N);
    }
  }
  return A;
}

// The heads' A (H, n, N) applied to values, which stand in x (N, width) from column `first` on: (n, D).
function applied(A, x, N, H, D, first) {
  const width = x.length / N, d = D / H, n = A.length / (H * N), y = new Float32Array(n * D), sums = new Float64Array(d);
  for (let h = 0, at = 0; h < H; h++) {
    for (let query = 0; query < n; query++, at += N) {
      sums.fill(0);
      for (let key = 0; key < N; key++) {
        const share = A[at + key];
        for (let k = 0, v = key * width + first + h * d; k < d; k++) sums[k] += share * x[v + k];
      }
      y.set(sums, query * D + h * d);
    }
  }
  return y;
}

// --- the network

// One picture, 0 to 255, row by row, through a network. `how` may hold
//   gates: by layer and head, what stands in place of the learned gate;
//   order: for each place the patch that is put there;  positions: false sets the absolute embeddings to zero;
//   maps: true keeps what every head attends to.
// Gives {logits, layers: [{content, position, mixed, tokens}]}, each attention (H, N, N).
function forward(network, pixels, { mean, std }, how = {}) {
  const { config, weights } = network, { patch_size: side, embed_dim: D, num_heads: H, grid } = config;
  const [rows, columns] = grid, wide = columns * side, layers = [];
  let N = rows * columns;
  const patches = new Float32Array(N * side * side);
  for (let k = 0, at = 0; k < N; k++) {
    const from = how.order ? how.order[k] : k, corner = Math.floor(from / columns) * side * wide + from % columns * side;
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) patches[at++] = (pixels[corner + y * wide + x] / 255 - mean) / std;
    }
  }
  let x = linear(patches, N, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]); // (N, D)
  if (how.positions !== false) for (let k = 0; k < x.length; k++) x[k] += weights.pos_embed[k];
  for (let layer = 0; layer < config.depth; layer++) {
    if (layer === config.class_token_at) { // it joins: (1 + N, D), token first
      const joined = new Float32Array(x.length + D);
      joined.set(weights.cls_token);
      joined.set(x, D);
      x = joined;
      N += 1;
    }
    const of = (name) => weights[`blocks.${layer}.${name}`], seen = layerNorm(x, N, of("norm1.weight"), of("norm1.bias"));
    let mixed, heads, n = N; // n: how many tokens go on
    if (layer < config.local_up_to_layer) { // GPSA, Eq 7: A = (1 - g) content + g position
      const byContent = content(linear(seen, N, of("attn.qk.weight")), N, H, D);
      const byPosition = (network.positions ||= [])[layer] ||= position(of("attn.pos_proj.weight"), grid);
      const gates = network.gates[layer].map((learned, h) => how.gates?.[layer]?.[h] ?? learned);
      mixed = new Float32Array(H * N * N);
      for (let h = 0, k = 0; h < H; h++) {
        const gate = gates[h];
        for (const end = k + N * N; k < end; k++) mixed[k] = (1 - gate) * byContent[k] + gate * byPosition[k];
      }
      heads = applied(mixed, linear(seen, N, of("attn.v.weight")), N, H, D, 0);
      if (how.maps) layers.push({ content: byContent, position: byPosition, mixed, tokens: N });
    } else { // plain self-attention, Eqs 1 to 3
      const qkv = linear(seen, N, of("attn.qkv.weight"));
      if (layer + 1 === config.depth && !how.maps) n = 1; // only the class token is read in the end
      mixed = content(qkv, N, H, D, n);
      heads = applied(mixed, qkv, N, H, D, 2 * D);
      if (how.maps) layers.push({ content: mixed, mixed, tokens: N });
    }
    const attended = linear(heads, n, of("attn.proj.weight"), of("attn.proj.bias"));
    for (let k = 0; k < attended.length; k++) x[k] += attended[k];
    const normal = layerNorm(x, n, of("norm2.weight"), of("norm2.bias"));
    const hidden = gelu(linear(normal, n, of("mlp.fc1.weight"), of("mlp.fc1.bias")));
    const fed = linear(hidden, n, of("mlp.fc2.weight"), of("mlp.fc2.bias"));
    for (let k = 0; k < fed.length; k++) x[k] += fed[k];
  }
  const token = layerNorm(x.subarray(0, D), 1, weights["norm.weight"], weights["norm.bias"]);
  return { logits: linear(token, 1, weights["head.weight"], weights["head.bias"]), layers };
}

// How many of the pictures (M, h * w) each network gets right, told again and again on the way. `stale()` ends it.
async function score(networks, { pixels, labels, size, mean, std }, hows, tell, stale) {
  const right = networks.map(() => 0), each = size[0] * size[1];
  for (let k = 0; k < labels.length; k++) {
    for (const [n, network] of networks.entries()) {
      const { logits } = forward(network, pixels.subarray(k * each, (k + 1) * each), { mean, std }, hows[n]);
      right[n] += +(logits.indexOf(Math.max(...logits)) === labels[k]);
    }
    if (k % 5 < 4 && k + 1 < labels.length) continue;
    await new Promise((goOn) => setTimeout(goOn)); // what else there is to do comes in here
    if (stale()) return;
    tell(right, k + 1);
  }
}

return { bytes, half, unpack, erf, forward, score };
};

// Scoring beside the page, each network in a Worker made of the text above; in the page itself where Workers are refused.
// Gives score(networks, hows, tell): a later call ends an earlier one, but for a network of which it asks the same, which
// goes on or is known. tell(right of each network, of so many).
function scorer(pictures, number) {
  const own = engine(), jobs = [];
  let asked = 0, workers = [], last;
  const inPage = (at, networks, hows, tell) => own.score(networks, pictures, hows, tell, () => at !== asked);
  function listen() { // runs in the Worker
    let network, pictures, newest;
    onmessage = ({ data }) => {
      ({ network = network, pictures = pictures } = data);
      newest = data.asked;
      const tell = ([right], of) => postMessage({ asked: data.asked, right, of });
      own.score([network], pictures, [data.how], tell, () => newest !== data.asked);
    };
  }
  function report() { // of as many pictures as every network has seen
    const of = Math.min(...jobs.map((job) => job.of));
    if (of) last[3](jobs.map((job) => job.right[of]), of);
  }
  try {
    const text = `const own = (${engine})();(${listen})();`;
    const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    workers = Array.from({ length: number }, () => new Worker(address));
  } catch {} // refused
  workers.forEach((worker, n) => {
    worker.onmessage = ({ data: { asked, right, of } }) => {
      if (asked !== jobs[n].asked) return;
      jobs[n].right[jobs[n].of = of] = right;
      report();
    };
    worker.onerror = () => {
      if (!workers.length) return; // another has said so
      workers = [];
      inPage(...last);
    };
  });
  return (networks, hows, tell) => {
    last = [++asked, networks, hows, tell];
    if (!workers.length) return inPage(...last);
    networks.forEach((network, n) => {
      const text = JSON.stringify(hows[n]), before = jobs[n], { config, weights, gates } = network;
      if (before?.network === network && before.text === text) return;
      jobs[n] = { network, text, asked, right: {}, of: 0 };
      workers[n].postMessage({
        asked, how: hows[n], ...(before?.network !== network && { network: { config, weights, gates } }), ...(!before && { pictures }),
      });
    });
    report();
  };
}

return { ...engine(), scorer };
})();
