// The page's controls: which checkpoint, which layers, which noise level; charts are drawn when they come into view.

const $ = (id) => document.getElementById(id);
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };
const charts = new Map(); // element -> how it is drawn, and what is less work where only the checkpoint changes
const stale = new Map(); // element -> whether only the checkpoint has changed
const seen = new Set();

function register(element, draw, move) {
  charts.set(element, { draw, move });
  stale.set(element, false);
  watcher.observe(element);
}

function refresh(element) {
  const { draw, move } = charts.get(element), onlyMoved = stale.get(element);
  stale.delete(element);
  if (onlyMoved && move) {
    move(element);
    return;
  }
  const drawn = draw();
  if (!drawn) return;
  if (drawn.layout.height) element.style.height = `${drawn.layout.height}px`;
  // Of a page of paper nobody tells the width before it is laid out: A4 and letter leave some 680 px.
  if (printing) Object.assign(drawn.layout, element.closest(".layer") ? { width: 222, height: 230 } : { width: 660 });
  Plotly.react(element, drawn.traces, drawn.layout, CONFIG);
  // Again whenever it is drawn: a window that changes its size moves the axes.
  if (move && !element.dataset.followed) {
    element.dataset.followed = "yes";
    element.on("plotly_afterplot", () => move(element));
  }
  if (move) move(element);
}

// What moves with the slider lies over its chart, so that the chart itself need not be drawn again.
const SVG = "http://www.w3.org/2000/svg";
function draw(parent, tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
}

// The marks of the charts; what has no shape here is shown as a dot.
const SHAPES = { cross: "M11 1h4v3h3v4h-3v3h-4V8H8V4h3z", x: "M8 3l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z",
  square: "M9 2h8v8H9z", diamond: "M13 0l6 6-6 6-6-6z", "triangle-up": "M13 1l6 10H7z", "triangle-down": "M13 11L7 1h12z" };
function mark(parent, look, attributes) {
  if (SHAPES[look.symbol]) draw(parent, "path", { d: SHAPES[look.symbol], ...attributes });
  else draw(parent, "circle", { cx: 13, cy: 6, r: 4.5, ...attributes });
}

function moveCursor(chart) {
  const over = $("time-now"), axis = chart._fullLayout.xaxis, run = data.runs[state.run];
  const x = axis._offset + axis.d2p(run.places[state.at]), size = chart._fullLayout._size;
  over.replaceChildren();
  draw(over, "line", { x1: x, x2: x, y1: size.t, y2: size.t + size.h, stroke: theme().ink, "stroke-width": 1 });
}

function movePlane(chart) {
  const over = $("plane-now"), { xaxis, yaxis } = chart._fullLayout, colors = theme();
  const place = ([x, y]) => [xaxis._offset + xaxis.d2p(x), yaxis._offset + yaxis.d2p(y)];
  over.replaceChildren();
  const found = planeNow().map((layer) => ({ ...layer, points: layer.way.map(place) })).filter((layer) => layer.points.length);
  for (const { look, points } of found) {
    draw(over, "polyline", { points: points.map((p) => p.join()).join(" "), fill: "none", stroke: look.color, "stroke-width": 2.5 });
  }
  for (const { look, points, way, full } of found) {
    const [x, y] = points.at(-1), [dx, dy] = way.at(-1);
    mark(over, look, { transform: `translate(${x},${y}) scale(1.6) translate(-13,-6)`, "data-x": dx, "data-y": dy,
      fill: full ? look.color : colors.page, stroke: full ? colors.ink : look.color, "stroke-width": full ? 0.8 : 1.4 });
  }
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) seen.add(entry.target); else seen.delete(entry.target);
  }
  drawSoon();
}, { rootMargin: "200px" });

function changed() {
  for (const element of charts.keys()) stale.set(element, false);
  say();
  fillTables();
  drawSoon();
}

function moved() {
  for (const element of charts.keys()) if (!stale.has(element)) stale.set(element, true);
  say();
  fillTables();
  drawSoon();
}

// While the slider is dragged, charts are redrawn for a few milliseconds of each frame, in turns: the thumb follows the
// hand, and the charts follow the thumb.
const BUDGET = 20;
let waiting = false;
function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const start = performance.now();
    for (const element of [...seen].filter((shown) => stale.has(shown))) {
      refresh(element);
      seen.delete(element);
      seen.add(element); // to the end of the queue
      if (performance.now() - start > BUDGET) break;
    }
    if ([...seen].some((element) => stale.has(element))) drawSoon();
  });
}

function say() {
  const run = data.runs[state.run], where = `${time(run, state.at)} (checkpoint ${state.at + 1} of ${run.steps.length})`;
  $("where").textContent = where;
  $("checkpoint").setAttribute("aria-valuetext", where);
  $("numbers-where").textContent = where;
  for (const element of document.querySelectorAll(".layer")) {
    const parts = ["distance_auc", "distance_ratio", "nc1", "knn_agreement", "participation_ratio", "mean_distance"]
      .map((quantity) => find(run, element.dataset.layer, quantity)).filter(Boolean)
      .map((s) => [data.labels[s.quantity], pick(s.value, state.at)]).filter(([, value]) => value !== null);
    element.querySelector(".summary").textContent = parts.map(([label, value]) => `${label} ${number(value)}`).join(" · ");
  }
}

function fillTables() {
  for (const table of document.querySelectorAll(`.run-tables[data-run="${state.run}"] details[open] tr[data-series]`)) {
    const series = data.runs[state.run].series[Number(table.dataset.series)], cells = table.cells;
    const show = (name) => pick(series[name], state.at), status = data.statuses[series.status[state.at]];
    cells[2].textContent = number(show("value"));
    cells[3].textContent = show("std_error") === null ? "" : number(show("std_error"));
    cells[4].textContent = show("lower_bound") === null && show("upper_bound") === null ? "" : `${number(show("lower_bound"))} … ${number(show("upper_bound"))}`;
    cells[5].textContent = show("ceiling") === null ? "" : number(show("ceiling"));
    cells[6].title = series.reasons[state.at] || "";
    cells[6].firstElementChild.textContent = status ? status.name : "";
    cells[6].firstElementChild.className = `status ${status ? status.name : ""}`;
  }
}

function option(select, value, text) {
  const element = document.createElement("option");
  element.value = value;
  element.textContent = text;
  select.append(element);
}

function buildControls() {
  const slider = $("checkpoint");
  const fit = () => {
    slider.max = data.runs[state.run].steps.length - 1;
    state.at = Math.min(state.at, Number(slider.max));
    slider.value = state.at;
    for (const element of [$("play"), slider.parentElement]) element.hidden = slider.max === "0";
  };
  slider.addEventListener("input", () => { state.at = Number(slider.value); moved(); });
  const scales = new Map();
  for (const run of data.runs) for (const s of run.series) {
    if (s.quantity === "mi_input") scales.set(s.level, (scales.get(s.level) || new Set()).add(s.scale));
  }
  for (const [level, texts] of [...scales].sort((a, b) => a[0] - b[0])) {
    option($("level"), level, short(`${level + 1}: ${[...texts].join(", ")}`, 40));
  }
  $("level-control").hidden = scales.size < 2;
  $("level").addEventListener("change", () => { state.level = Number($("level").value); captions(); changed(); });
  data.runs.forEach((run, i) => option($("run"), i, short(run.name, 40)));
  $("run-control").hidden = !several();
  $("run").addEventListener("change", () => {
    state.run = Number($("run").value);
    for (const block of document.querySelectorAll(".run-tables")) block.hidden = Number(block.dataset.run) !== state.run;
    fit();
    changed();
  });
  $("bounds").addEventListener("change", () => { state.bounds = $("bounds").checked; changed(); });
  $("bounds-control").hidden = !data.runs.some((run) => run.series.some((s) => s.quantity === "mi_input" && s.lower_bound !== null));
  fit();
  buildPlay(slider);
  $("controls").hidden = false;
}

function buildPlay(slider) {
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; $("play").textContent = "▶"; $("play").setAttribute("aria-pressed", "false"); };
  $("play").addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (state.at >= Number(slider.max)) state.at = -1;
    $("play").textContent = "⏸";
    $("play").setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      state.at += 1;
      slider.value = state.at;
      moved();
      if (state.at >= Number(slider.max)) stop();
    }, 350);
  });
  slider.addEventListener("pointerdown", stop);
}

function swatch(look) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 26 12");
  svg.setAttribute("aria-hidden", "true");
  draw(svg, "line", { x1: 0, y1: 6, x2: 26, y2: 6, stroke: look.color, "stroke-width": 2 });
  mark(svg, look, { fill: look.color });
  return svg;
}

function buildToggles() {
  for (const layer of data.layers) {
    const label = document.createElement("label"), box = document.createElement("input"), text = document.createElement("span");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(layer.key); else state.hidden.add(layer.key);
      changed();
    });
    text.className = "name";
    text.textContent = `${layer.key} ${layer.name}`;
    label.title = layer.name;
    label.append(box, swatch(looks[layer.key]), text);
    $("layer-toggles").append(label);
  }
}

function captions() {
  const series = data.runs.flatMap((run) => run.series.filter((s) => s.quantity === "mi_input" && s.level === state.level));
  const noisy = series.some((s) => s.noise_model === "network");
  const scales = [...new Set(series.map((s) => s.scale))].join(", ");
  const kind = noisy ? `T: layers of the noisy network, noise_std ${short(scales, 40)}.` : `T: activations read through noise of ${short(scales, 40)}; the network is deterministic.`;
  $("plane-caption").textContent = `${kind} Dashed: ceilings. Hollow: not to be trusted as it stands.`;
  const spread = data.spreads.length ? `Thick: mean over seeds, band: ± their standard deviation; thin: single runs.` : `Bands: ± ${ERRORS} standard errors.`;
  const lines = ["solid", "dashed", "dotted", "dash-dotted", "long-dashed", "long-dash-dotted"];
  const settings = groups.length > 1 ? ` Lines: ${groups.map((group, i) => `${short(group)} ${lines[i % 6]}`).join(", ")}.` : "";
  $("time-caption").textContent = `${spread} Dashed across: ceilings. Hollow: saturated, or with another status.${settings}`;
}

function buildLayers() {
  for (const layer of data.layers) {
    const card = document.createElement("article"), title = document.createElement("h3"), summary = document.createElement("p");
    card.className = "layer";
    card.dataset.layer = layer.key;
    const key = document.createElement("span"), name = document.createElement("span");
    key.className = "key";
    key.textContent = `${layer.key} `;
    name.className = "name";
    name.textContent = layer.name;
    name.title = layer.name;
    title.append(key, name);
    summary.className = "summary";
    const row = document.createElement("div");
    row.className = "charts";
    card.append(title, summary, row);
    $("layers").append(card);
    addChart(row, distancesChart, layer, "distances between pairs of samples");
    addChart(row, scatterChart, layer, "scatter of samples");
    addChart(row, profileChart, layer, "noise-scale profile");
    buildAxes(card, summary, layer);
  }
}

function addChart(row, draw, layer, what) {
  const element = document.createElement("div");
  if (draw(layer.key) === null) {
    element.className = "missing";
    element.textContent = `No ${what} in these results.`;
  } else {
    element.className = "chart";
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", `${layer.key} ${layer.name}: ${what}`);
    register(element, () => draw(layer.key));
  }
  row.append(element);
}

function buildAxes(card, summary, layer) {
  const scatter = data.runs[0].scatters.find((s) => s.layer === layer.key);
  if (!scatter || scatter.axes.length < 3) return;
  const select = document.createElement("select"), label = document.createElement("label");
  for (const pair of [[0, 1], [0, 2], [1, 2]]) option(select, pair.join(), pair.map((a) => scatter.axes[a]).join(" and "));
  select.addEventListener("change", () => { state.axes[layer.key] = select.value.split(",").map(Number); changed(); });
  label.className = "check";
  label.append("axes ", select);
  summary.after(label);
}

function buildCopies() {
  if (!navigator.clipboard && !document.execCommand) return;
  for (const button of document.querySelectorAll(".copy-button")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = button.previousElementSibling.textContent;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        getSelection().selectAllChildren(button.previousElementSibling); // a page from disk may not be allowed to
        document.execCommand("copy");
      }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }
}

document.documentElement.classList.remove("still"); // from here on the charts take the place of the images
buildControls();
buildToggles();
buildLayers();
buildCopies();
captions();
if (has("mi_label") && Math.max(0, ...ceilingsOf("mi_label")) > 0) register($("plane"), planeChart, movePlane);
else {
  $("plane").className = "missing";
  $("plane").textContent = has("mi_input") ? "Without at least two classes there is no I(Y;T) to draw, and so no plane." : "I(X;T) is not in these results.";
}
register($("time"), timeChart, moveCursor);
for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", fillTables);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
addEventListener("beforeprint", () => {
  printing = true;
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const element of charts.keys()) {
    stale.set(element, false);
    refresh(element);
  }
});
addEventListener("afterprint", () => { printing = false; changed(); });
changed();
document.documentElement.dataset.ready = "yes";
