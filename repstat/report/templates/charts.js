"use strict";
// What each chart draws, from the data of the page and the state of its controls. Nothing here touches the page.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { run: 0, at: data.runs[0].steps.length - 1, level: 0, hidden: new Set(), bounds: false, axes: {} };

const OKABE_ITO = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f"];
const DEPTH = ["#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0a02d"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon", "triangle-down",
  "hexagon", "bowtie", "hourglass"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const STATUS = Object.fromEntries(data.statuses.map((status, i) => [status.name, i]));
const LIGHT = { ink: "#000", soft: "#444", line: "#bbb", grid: "#ddd", page: "#fff" };
const ERRORS = 2; // half the width of a band, in standard errors

let printing = false;

function theme() {
  if (printing) return LIGHT;
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(Object.keys(LIGHT).map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// Foreign names are text: plotly reads a few tags, entities and dollar signs in what it is given.
const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
const short = (text, most = 28) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const pick = (field, i) => (Array.isArray(field) ? field[i] : field);

function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) return value.toExponential(2);
  const decimals = size < 1 ? 4 : size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0;
  return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

function blend(stops, share) {
  const place = share * (stops.length - 1), i = Math.min(Math.floor(place), stops.length - 2), part = place - i;
  const channel = (text, k) => parseInt(text.slice(1 + 2 * k, 3 + 2 * k), 16);
  const mixed = [0, 1, 2].map((k) => Math.round(channel(stops[i], k) * (1 - part) + channel(stops[i + 1], k) * part));
  return `rgb(${mixed.join(",")})`;
}

// Few layers get colours far apart, many the shades of a scale that orders them; marks tell them apart too. Kinds of
// line tell settings of several runs apart, and metrics.
const looks = Object.fromEntries(data.layers.map((layer, i) => [layer.key, {
  color: data.layers.length <= OKABE_ITO.length ? OKABE_ITO[i] : blend(DEPTH, i / (data.layers.length - 1)),
  symbol: SYMBOLS[i % SYMBOLS.length],
  title: `${layer.key} ${short(layer.name)}`,
}]));
const groups = [...new Set(data.runs.map((run) => run.group))];

function find(run, layer, quantity) {
  const found = run.series.filter((s) => s.layer === layer && s.quantity === quantity);
  return found.find((s) => s.level === state.level) || found[found.length - 1];
}
const has = (quantity) => data.runs.some((run) => run.series.some((s) => s.quantity === quantity
  && s.status.some((_, i) => pick(s.value, i) !== null)));
const visible = () => data.layers.filter((layer) => !state.hidden.has(layer.key));
const several = () => data.runs.length > 1;
const time = (run, i) => (data.axis.name === "epoch"
  ? `epoch ${run.epochs[i].toLocaleString("en-US")}, step ${run.steps[i].toLocaleString("en-US")}`
  : `step ${run.steps[i].toLocaleString("en-US")}`);

function told(run, series, i) {
  const error = pick(series.std_error, i), status = data.statuses[series.status[i]];
  const scale = series.scale ? `, ${series.quantity.startsWith("binned") ? "bins" : "noise"} ${series.scale}` : "";
  const reason = series.reasons[i] ? `<br>${escape(short(series.reasons[i], 90))}` : "";
  return `${data.labels[series.quantity]} ${number(pick(series.value, i))}`
    + `${error ? ` ± ${number(error)}` : ""} ${series.units === "1" ? "" : series.units}${escape(scale)}`
    + `${status && status.name !== "ok" ? `<br><i>${status.name}</i>${reason}` : ""}`;
}

const hover = (run, layer, i, ...series) => `<b>${escape(looks[layer].title)}</b>${several() ? ` · ${escape(short(run.name))}` : ""}<br>`
  + `${time(run, i)}<br>${series.map((s) => told(run, s, i)).join("<br>")}`;

// The area between two series, as closed outlines: one for each stretch without a gap.
function band(places, low, high, color, opacity, axes) {
  const x = [], y = [];
  let stretch = [];
  const close = () => {
    if (stretch.length > 1) {
      x.push(...stretch.map((i) => places[i]), ...stretch.slice().reverse().map((i) => places[i]), null);
      y.push(...stretch.map((i) => high(i)), ...stretch.slice().reverse().map((i) => low(i)), null);
    }
    stretch = [];
  };
  places.forEach((_, i) => (low(i) === null || high(i) === null ? close() : stretch.push(i)));
  close();
  return { type: "scatter", mode: "lines", x, y, fill: "toself", fillcolor: color, line: { width: 0 }, opacity,
    hoverinfo: "skip", showlegend: false, ...axes };
}

const hollow = (symbol, series, i) => (series.status[i] === STATUS.ok ? symbol : `${symbol}-open`);
const valued = (series) => series.status.map((_, i) => pick(series.value, i));

function lineOf(run, layer, series, axes, thin) {
  const look = looks[layer], indexes = run.places.map((_, i) => i);
  return { type: "scatter", mode: thin ? "lines" : "lines+markers", x: run.places, y: valued(series), ...axes,
    line: { color: look.color, width: thin ? 1 : 2, dash: DASHES[groups.indexOf(run.group) % 6] },
    marker: { color: look.color, size: indexes.length > 40 ? 3 : 6, symbol: indexes.map((i) => hollow(look.symbol, series, i)) },
    opacity: thin ? 0.35 : 1, text: indexes.map((i) => hover(run, layer, i, series)), hoverinfo: "text",
    connectgaps: false, showlegend: false };
}

function spreadOf(layer, quantity, color, axes, panel) {
  const level = (s) => s.level === state.level || quantity !== "mi_input" && quantity !== "mi_label";
  return data.spreads.filter((s) => s.layer === layer && s.quantity === quantity && level(s)).flatMap((s) => [
    band(s.places, (i) => s.mean[i] - s.std[i], (i) => s.mean[i] + s.std[i], color, 0.18, axes),
    { type: "scatter", mode: "lines", x: s.places, y: s.mean, ...axes, hoverinfo: "text", showlegend: false,
      line: { color, width: 2.5, dash: DASHES[groups.indexOf(s.group) % 6] },
      text: s.mean.map((mean, i) => `<b>${escape(layer ? looks[layer].title : quantity)}</b> · ${escape(short(s.group))}<br>`
        + `mean of ${s.n_runs} runs ${number(mean)}, standard deviation ${number(s.std[i])}${panel ? ` ${panel.units}` : ""}`) },
  ]);
}

// --- the charts of time -------------------------------------------------------------------------------------

function panels() {
  const found = [];
  for (const quantity of ["mi_input", "mi_label", "binned_mi_input"]) {
    if (has(quantity)) found.push({ quantity, title: `${data.labels[quantity]}, ${data.units}`, units: data.units });
  }
  const apart = ["distance_auc", "mean_distance"].find(has);
  if (apart) found.push({ quantity: apart, title: data.labels[apart], units: "" });
  const held = (name) => /test|val/i.test(name);
  const metrics = [...new Set(data.runs.flatMap((run) => Object.keys(run.metrics)))].sort((a, b) => held(b) - held(a));
  const kinds = [["loss", (m) => /loss/i.test(m)], ["accuracy", (m) => /acc/i.test(m) && !/loss/i.test(m)],
    ["metrics", (m) => !/acc|loss/i.test(m)]];
  for (const [title, belongs] of kinds) {
    const names = metrics.filter(belongs);
    if (names.length) found.push({ metrics: names, title, units: "" });
  }
  return found;
}

function metricTraces(panel, axes) {
  const colors = theme();
  return panel.metrics.flatMap((name, k) => {
    const color = /test|val/i.test(name) ? colors.ink : colors.soft;
    const thin = data.spreads.some((s) => s.layer === "" && s.quantity === name);
    const lines = data.runs.filter((run) => run.metrics[name]).map((run) => ({
      type: "scatter", mode: "lines+markers", x: run.places, y: run.metrics[name], ...axes, hoverinfo: "text",
      line: { color, width: thin ? 1 : 1.8, dash: DASHES[k % 6] }, marker: { size: run.places.length > 40 ? 2 : 4, symbol: SYMBOLS[k % 12], color },
      opacity: thin ? 0.35 : 1, showlegend: false,
      text: run.metrics[name].map((value, i) => `<b>${escape(short(name))}</b>${several() ? ` · ${escape(short(run.name))}` : ""}<br>${time(run, i)}<br>${number(value)}`),
    }));
    return [...lines, ...spreadOf("", name, color, axes)];
  });
}

function metricNames(panel, yaxis) {
  return panel.metrics.slice(0, 6).map((name, k) => ({
    xref: "paper", yref: `${yaxis} domain`, x: panel.title === "loss" ? 0.01 : 0.99, xanchor: panel.title === "loss" ? "left" : "right",
    y: 0.02 + 0.15 * k, yanchor: "bottom", showarrow: false, text: `${escape(short(name))} ${["——", "– –", "· ·", "–·–", "— —", "—·—"][k % 6]}`, font: { size: 11 },
  }));
}

function quantityTraces(panel, axes) {
  const traces = [];
  for (const layer of visible()) {
    const seeds = spreadOf(layer.key, panel.quantity, looks[layer.key].color, axes, panel);
    for (const run of data.runs) {
      const series = find(run, layer.key, panel.quantity);
      if (!series) continue;
      const color = looks[layer.key].color;
      const shift = (k) => (i) => {
        const value = pick(series.value, i), error = pick(series.std_error, i);
        return value === null || error === null ? null : value + k * error;
      };
      if (state.bounds) traces.push(band(run.places, (i) => pick(series.lower_bound, i), (i) => pick(series.upper_bound, i), color, 0.1, axes));
      if (!seeds.length) traces.push(band(run.places, shift(-ERRORS), shift(ERRORS), color, 0.3, axes));
      traces.push(lineOf(run, layer.key, series, axes, seeds.length > 0));
    }
    traces.push(...seeds);
  }
  return traces;
}

function ceilingsOf(quantity) {
  const every = data.runs.flatMap((run) => visible().map((layer) => find(run, layer.key, quantity)))
    .filter(Boolean).flatMap((s) => s.status.map((_, i) => pick(s.ceiling, i)));
  return [...new Set(every.filter((c) => c !== null && c !== undefined))].slice(0, 3);
}

function timeAxis(colors) {
  return { tickvals: data.axis.ticks.map((t) => t[0]), ticktext: data.axis.ticks.map((t) => t[1]),
    gridcolor: colors.grid, zeroline: false, linecolor: colors.line, fixedrange: false };
}

function timeChart() {
  const colors = theme(), every = panels(), gap = 0.045, height = (1 - gap * (every.length - 1)) / every.length;
  const layout = base(), traces = [];
  layout.shapes = [];
  layout.annotations = [];
  every.forEach((panel, k) => {
    const id = k ? String(k + 1) : "", top = 1 - k * (height + gap), axes = { xaxis: "x", yaxis: `y${id}` };
    layout[`yaxis${id}`] = { domain: [Math.max(0, top - height), top], gridcolor: colors.grid, zeroline: false, linecolor: colors.line,
      title: { text: panel.title, font: { size: 11 } }, nticks: 5,
      ...(panel.quantity && panel.quantity !== "mean_distance" ? { rangemode: "tozero" } : {}) };
    if (panel.metrics) {
      const values = data.runs.flatMap((run) => panel.metrics.flatMap((m) => run.metrics[m] || [])).filter((v) => v !== null);
      if (panel.title === "loss" && values.every((v) => v > 0)) Object.assign(layout[`yaxis${id}`], { type: "log", nticks: 4, exponentformat: "power" });
      traces.push(...metricTraces(panel, axes));
      layout.annotations.push(...metricNames(panel, `y${id}`));
      return;
    }
    traces.push(...quantityTraces(panel, axes));
    layout.shapes.push(...ceilingsOf(panel.quantity).map((c) => ({ type: "line", xref: "paper", x0: 0, x1: 1, yref: `y${id}`,
      y0: c, y1: c, line: { color: colors.soft, width: 1, dash: "dash" } })));
  });
  layout.xaxis = { ...timeAxis(colors), anchor: every.length > 1 ? `y${every.length}` : "y", title: { text: data.axis.name } };
  layout.height = 80 + 165 * every.length;
  layout.margin = { l: 58, r: 12, t: 8, b: 44 };
  return { traces, layout };
}

// --- the information plane ----------------------------------------------------------------------------------

const positions = (run, layer) => ["mi_input", "mi_label"].map((quantity) => find(run, layer, quantity));

function planeChart() {
  const colors = theme(), layout = base(), traces = [];
  for (const run of data.runs) for (const layer of visible()) {
    const [x, y] = positions(run, layer.key);
    if (!x || !y) continue;
    const look = looks[layer.key], indexes = run.places.map((_, i) => i);
    const errors = (s) => ({ type: "data", array: indexes.map((i) => ERRORS * (pick(s.std_error, i) || 0)), thickness: 1, width: 0, color: look.color });
    traces.push({ type: "scatter", mode: "lines+markers", x: valued(x), y: valued(y), opacity: several() ? 0.6 : 0.4,
      showlegend: false, hoverinfo: "text", connectgaps: false, text: indexes.map((i) => hover(run, layer.key, i, x, y)),
      error_x: errors(x), error_y: errors(y), line: { color: look.color, width: 1, dash: DASHES[groups.indexOf(run.group) % 6] },
      marker: { color: look.color, size: 5, symbol: indexes.map((i) => hollow(look.symbol, x.status[i] === STATUS.ok ? y : x, i)) } });
  }
  const edges = [["x", ceilingsOf("mi_input")], ["y", ceilingsOf("mi_label")]];
  layout.shapes = edges.flatMap(([axis, ceilings]) => ceilings.map((c) => ({ type: "line",
    xref: axis === "x" ? "x" : "paper", yref: axis === "x" ? "paper" : "y",
    x0: axis === "x" ? c : 0, x1: axis === "x" ? c : 1, y0: axis === "x" ? 0 : c, y1: axis === "x" ? 1 : c,
    line: { color: colors.soft, width: 1, dash: "dash" } })));
  const range = (ceilings) => (Math.max(0, ...ceilings) > 0 ? { range: [0, 1.04 * Math.max(...ceilings)] } : { rangemode: "tozero" });
  layout.xaxis = { title: { text: `I(X;T), ${data.units}` }, gridcolor: colors.grid, zeroline: false, linecolor: colors.line, ...range(edges[0][1]) };
  layout.yaxis = { title: { text: `I(Y;T), ${data.units}` }, gridcolor: colors.grid, zeroline: false, linecolor: colors.line, ...range(edges[1][1]) };
  layout.margin = { l: 58, r: 12, t: 8, b: 44 };
  return { traces, layout };
}

// Where the layers of the current run are at the checkpoint, and the way they came.
function planeNow() {
  const run = data.runs[state.run];
  return visible().map((layer) => [layer, ...positions(run, layer.key)]).filter(([, x, y]) => x && y).map(([layer, x, y]) => ({
    look: looks[layer.key], full: x.status[state.at] === STATUS.ok && y.status[state.at] === STATUS.ok,
    way: run.places.slice(0, state.at + 1).map((_, i) => [pick(x.value, i), pick(y.value, i)]).filter(([a, b]) => a !== null && b !== null),
  }));
}

// --- one layer at one checkpoint ------------------------------------------------------------------------------

function distancesChart(layer) {
  const run = data.runs[state.run], colors = theme(), layout = base();
  const any = (h) => h.counts.some((counts) => counts.some((c) => c > 0));
  const found = run.histograms.filter((h) => h.layer === layer && h.quantity === "distance" && any(h));
  const traces = found.map((h) => {
    const counts = h.counts[state.at], total = counts.reduce((a, b) => a + b, 0) || 1;
    const k = h.relation === "between" ? 1 : 0;
    // A step at every edge, closed to the axis at both ends.
    const x = h.edges, y = [...counts.map((c) => c / total), counts[counts.length - 1] / total];
    return { type: "scatter", mode: "lines", x, y, line: { shape: "hv", color: OKABE_ITO[k], width: 1.5, dash: k ? "dot" : "solid" },
      fill: "tozeroy", fillcolor: k ? "rgba(213,94,0,.25)" : "rgba(0,114,178,.25)", name: h.relation === "all" ? "all pairs" : h.relation,
      hovertemplate: `%{x:.3g}: %{y:.2%} of the pairs<extra>${h.relation}</extra>` };
  });
  layout.xaxis = { title: { text: "distance", font: { size: 11 } }, gridcolor: colors.grid, zeroline: false, range: found.length ? [found[0].edges[0], found[0].edges[found[0].edges.length - 1]] : undefined };
  layout.yaxis = { title: { text: "share of pairs", font: { size: 11 } }, gridcolor: colors.grid, zeroline: false, rangemode: "tozero", tickformat: ".0%" };
  layout.showlegend = traces.length > 1;
  layout.legend = { x: 1, xanchor: "right", y: 1, bgcolor: "rgba(0,0,0,0)", font: { size: 11 } };
  return found.length ? { traces, layout } : null;
}

const decoded = new Map();
function coordinates(scatter) {
  if (!decoded.has(scatter)) {
    const bytes = Uint8Array.from(atob(scatter.coordinates), (c) => c.charCodeAt(0));
    decoded.set(scatter, new Uint16Array(bytes.buffer));
  }
  return decoded.get(scatter);
}

function scatterChart(layer) {
  const run = data.runs[state.run], scatter = run.scatters.find((s) => s.layer === layer);
  if (!scatter) return null;
  const colors = theme(), layout = base(), [, points, axes] = scatter.shape, whole = coordinates(scatter);
  const [a, b] = axes === 1 ? [0, 0] : state.axes[layer] || [0, 1];
  const at = (point, axis) => {
    const level = whole[(state.at * points + point) * axes + axis];
    return level === 65535 ? null : scatter.low[axis] + (level / 65534) * (scatter.high[axis] - scatter.low[axis]);
  };
  const classes = [...new Set(scatter.labels)].sort((p, q) => p - q);
  const color = (c) => (classes.length <= OKABE_ITO.length ? OKABE_ITO[c] : blend(DEPTH, c / (classes.length - 1)));
  const traces = classes.map((label, c) => {
    const members = scatter.labels.map((l, i) => (l === label ? i : -1)).filter((i) => i >= 0);
    return { type: "scatter", mode: "markers", x: members.map((i) => at(i, a)), y: members.map((i) => (axes === 1 ? 0 : at(i, b))),
      marker: { color: color(c), size: 5, symbol: SYMBOLS[c % 12], opacity: 0.75 }, name: label < 0 ? "" : `class ${label}`,
      text: members.map((i) => `sample ${scatter.samples[i]}${label < 0 ? "" : `, class ${label}`}`), hoverinfo: "text" };
  });
  const range = (axis) => {
    const pad = 0.05 * ((scatter.high[axis] - scatter.low[axis]) || 1);
    return [scatter.low[axis] - pad, scatter.high[axis] + pad];
  };
  const shown = scatter.shown[state.at];
  layout.xaxis = { title: { text: escape(scatter.axes[a]) + (shown === null ? "" : ` (axes show ${(100 * shown).toFixed(0)} % of the variance)`), font: { size: 11 } }, gridcolor: colors.grid, zeroline: false, range: range(a) };
  layout.yaxis = { title: { text: axes === 1 ? "" : escape(scatter.axes[b]), font: { size: 11 } }, gridcolor: colors.grid, zeroline: false, ...(axes === 1 ? { visible: false } : { range: range(b) }) };
  layout.showlegend = classes.length > 1 && classes.length <= 10;
  layout.legend = { orientation: "h", y: 1.02, yanchor: "bottom", font: { size: 10 }, bgcolor: "rgba(0,0,0,0)" };
  layout.margin.t = layout.showlegend ? 26 : 8;
  return { traces, layout };
}

function profileChart(layer) {
  const run = data.runs[state.run], found = run.profiles.find((p) => p.layer === layer);
  if (!found) return null;
  const colors = theme(), layout = base(), last = run.steps.length - 1;
  const line = (i, name, width, dash, color) => ({ type: "scatter", mode: width > 2 ? "lines+markers" : "lines", x: found.noise_std, y: found.clusters[i], name,
    line: { color, width, dash }, marker: { size: 5 }, hovertemplate: `noise_std %{x:.3g}: %{y:.3g} groups<extra>${name}</extra>` });
  const traces = [line(0, "first", 1, "dot", colors.soft), line(last, "last", 1, "dash", colors.soft), line(state.at, "now", 2.5, "solid", looks[layer].color)];
  layout.xaxis = { title: { text: "noise_std", font: { size: 11 } }, type: "log", gridcolor: colors.grid, exponentformat: "power", dtick: 1 };
  layout.yaxis = { title: { text: "groups told apart", font: { size: 11 } }, type: "log", gridcolor: colors.grid, range: [-0.05, Math.log10(found.ceiling || 1) + 0.1], dtick: 1, exponentformat: "power" };
  layout.showlegend = true;
  layout.legend = { x: 1, xanchor: "right", y: 1, bgcolor: "rgba(0,0,0,0)", font: { size: 11 } };
  return { traces, layout };
}

function base() {
  const colors = theme();
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colors.ink, size: 12, family: "system-ui, sans-serif" },
    margin: { l: 52, r: 8, t: 8, b: 40 }, showlegend: false, hovermode: "closest", dragmode: false,
    hoverlabel: { bgcolor: colors.page, bordercolor: colors.line, font: { color: colors.ink, size: 12 }, align: "left" } };
}
