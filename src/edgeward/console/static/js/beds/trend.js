// Trends of a bed: one row per parameter, the band of lowest and highest value, the mean, limits; a cursor that reads all
// rows at one moment, by mouse or keys; and the same as a table. Where nothing was measured there is a gap, no line.

import { t } from "../texts.js";
import { localTime } from "../times.js";
import { number, parameterName, rank, unitText } from "./values.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000; // of the drawing; it is stretched to the page
const HEIGHT = 100;
const PAD = 8;
const CODED = new Set(["consciousness", "supplemental_oxygen"]);

/** Runs of indices without a gap. `at` in milliseconds, `interval` the expected distance. Pure. */
export function runs(at, interval) {
  const found = [];
  at.forEach((time, i) => {
    if (i && time - at[i - 1] <= interval * 2.5) found[found.length - 1].push(i);
    else found.push([i]);
  });
  return found;
}

/** Index of the entry nearest to `time`, or -1 if it is further than `within`. Pure. */
export function nearest(at, time, within) {
  let best = -1;
  at.forEach((one, i) => { if (Math.abs(one - time) <= within && (best < 0 || Math.abs(one - time) < Math.abs(at[best] - time))) best = i; });
  return best;
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const element = (tag, text = "", name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });

export class Trends {
  constructor(root) {
    this.root = root;
    this.bed = root.dataset.bed;
    this.rows = root.querySelector("[data-trend-rows]");
    this.note = root.querySelector("[data-trend-note]");
    this.table = root.querySelector("[data-trend-table]");
    this.hours = 24;
    this.lines = [];
  }

  start() {
    for (const button of this.root.querySelectorAll("[data-hours]")) {
      button.addEventListener("click", () => {
        this.hours = Number(button.dataset.hours);
        for (const other of this.root.querySelectorAll("[data-hours]")) other.setAttribute("aria-pressed", String(other === button));
        this.load();
      });
    }
    // The file is made when it is asked for, of the hours that are chosen then, in the reader's own time.
    const file = this.root.querySelector("[data-csv]");
    const path = file.getAttribute("href");
    file.addEventListener("click", () => {
      file.href = `${path}?${new URLSearchParams({ hours: String(this.hours), zone: Intl.DateTimeFormat().resolvedOptions().timeZone ?? "" })}`;
    });
    const asTable = this.root.querySelector("[data-as-table]");
    asTable.addEventListener("click", () => {
      const on = this.table.hidden;
      this.table.hidden = !on;
      this.rows.hidden = on;
      asTable.setAttribute("aria-pressed", String(on));
      this.write();
    });
    this.rows.addEventListener("pointermove", (event) => {
      const plot = event.target.closest("svg");
      if (!plot) return;
      const box = plot.getBoundingClientRect();
      this.point(this.since + ((event.clientX - box.left) / box.width) * (this.until - this.since));
    });
    this.rows.addEventListener("pointerleave", () => this.point(null));
    this.rows.addEventListener("keydown", (event) => {
      const step = (event.shiftKey ? 12 : 1) * (this.trend?.interval ?? 0);
      if (event.key === "ArrowLeft") this.point((this.cursor ?? this.until) - step);
      else if (event.key === "ArrowRight") this.point((this.cursor ?? this.since) + step);
      else if (event.key === "Home") this.point(this.since);
      else if (event.key === "End") this.point(this.until);
      else if (event.key === "Escape") this.point(null);
      else return;
      event.preventDefault();
    });
    this.load();
    setInterval(() => { if (!document.hidden && this.cursor === null) this.load(); }, 60_000);
  }

  async load() {
    const wanted = this.hours;
    let trend = null;
    let problem = "";
    try {
      const answer = await fetch(`/api/beds/${encodeURIComponent(this.bed)}/trend?hours=${wanted}`, { headers: { accept: "application/json" } });
      if (answer.ok) trend = await answer.json();
      else problem = (await answer.json().catch(() => ({}))).error ?? String(answer.status);
    } catch { problem = t("live.unreached"); }
    if (wanted !== this.hours) return;
    this.cursor = null;
    this.trend = trend;
    const left = this.left();
    this.note.hidden = Boolean(trend?.series.length) && left === null;
    this.note.textContent = !trend ? t("trend.failed", { reason: problem })
      : !trend.series.length ? t("trend.nothing") : left === null ? "" : t("trend.former", { time: localTime(new Date(left)) });
    if (trend) { this.since = trend.since; this.until = trend.until; }
    this.draw();
  }

  /** When the last patient left the bed, within what is shown; null if nobody did. */
  left() { return this.trend?.discharged?.[0] ?? null; }

  x(time) { return ((time - this.since) / (this.until - this.since)) * WIDTH; }

  draw() {
    const series = [...(this.trend?.series ?? [])].filter((one) => one.at.length).sort((a, b) => rank(a.p) - rank(b.p));
    this.lines = series.map((one) => this.row(one));
    const axis = element("div", "", "trend-axis");
    const plot = element("div", "", "trend-ticks");
    for (let i = 0; i <= 4 && series.length; i += 1) {
      const tick = element("span", new Date(this.since + ((this.until - this.since) * i) / 4).toTimeString().slice(0, 5));
      plot.append(tick);
    }
    axis.append(element("span"), plot, this.when = element("b", "", "trend-when"));
    this.rows.replaceChildren(...this.lines.map((line) => line.box), ...(series.length ? [axis] : []));
    this.write();
  }

  row(series) {
    const limits = this.trend.limits?.[series.p] ?? {};
    const values = [...series.low, ...series.high, ...[limits.low, limits.high].filter((value) => value !== null && value !== undefined)];
    let [least, most] = [Math.min(...values), Math.max(...values)];
    if (CODED.has(series.p)) [least, most] = [0, Math.max(1, most)]; // words, not numbers: nothing lies below the first
    else if (most - least < 1) { least -= 1; most += 1; }
    const y = (value) => HEIGHT - PAD - ((value - least) / (most - least)) * (HEIGHT - 2 * PAD);
    const plot = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (let i = 1; i < 4; i += 1) plot.append(shape("line", { class: "trend-grid", x1: (WIDTH * i) / 4, x2: (WIDTH * i) / 4, y1: 0, y2: HEIGHT }));
    for (const value of [limits.low, limits.high]) if (value !== null && value !== undefined) plot.append(shape("line", { class: "trend-limit", x1: 0, x2: WIDTH, y1: y(value), y2: y(value) }));
    for (const run of runs(series.at, this.trend.interval * (series.sparse ? 30 : 1))) {
      const point = (i, list) => `${this.x(series.at[i]).toFixed(1)},${y(list[i]).toFixed(1)}`;
      if (run.length === 1) { plot.append(shape("line", { class: "trend-dot", x1: this.x(series.at[run[0]]), x2: this.x(series.at[run[0]]), y1: y(series.low[run[0]]) - 2, y2: y(series.high[run[0]]) + 2 })); continue; }
      plot.append(shape("polygon", { class: "trend-band", points: [...run.map((i) => point(i, series.high)), ...[...run].reverse().map((i) => point(i, series.low))].join(" ") }));
      plot.append(shape("polyline", { class: "trend-mean", points: run.map((i) => point(i, series.mean)).join(" ") }));
    }
    // What lies before a discharge is of another patient.
    const left = this.left();
    if (left !== null) plot.append(shape("rect", { class: "trend-former", x: 0, y: 0, width: this.x(left), height: HEIGHT }));
    for (const at of this.trend.discharged ?? []) plot.append(shape("line", { class: "trend-discharge", x1: this.x(at), x2: this.x(at), y1: 0, y2: HEIGHT }));
    const cursor = shape("line", { class: "trend-cursor", x1: -9, x2: -9, y1: 0, y2: HEIGHT });
    plot.append(cursor);
    const box = element("div", "", "trend-row");
    const name = element("div", "", "trend-name");
    name.append(element("b", parameterName(series.p)), element("span", unitText(series.unit)));
    const scale = element("div", "", "trend-plot");
    scale.append(plot, element("span", number(series.p, most), "trend-most"), element("span", number(series.p, least), "trend-least"));
    const value = element("div", "", "trend-value");
    box.append(name, scale, value);
    return { box, cursor, value, series };
  }

  /** Put the cursor at a moment; null takes it away and shows the last value of each row. */
  point(time) {
    this.cursor = time === null ? null : Math.max(this.since, Math.min(this.until, time));
    this.write();
  }

  /** A value and its range; of words the worst, there is no mean of them. */
  said({ p }, mean, low, high) {
    const range = low === high ? "" : `${number(p, low)}–${number(p, high)}`;
    return [element("b", number(p, CODED.has(p) ? high : mean), CODED.has(p) ? "trend-word" : ""), element("span", range)];
  }

  write() {
    const { cursor } = this;
    for (const { series, value, cursor: line } of this.lines) {
      const last = series.at.length - 1;
      const i = cursor === null ? (series.at[last] < (this.left() ?? 0) ? -1 : last) : nearest(series.at, cursor, this.trend.interval * 1.5);
      value.replaceChildren(...(i < 0 ? [element("b", "—")] : this.said(series, series.mean[i], series.low[i], series.high[i])));
      const x = cursor === null ? -9 : this.x(cursor);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
    if (this.when) this.when.textContent = cursor === null ? t("trend.last") : localTime(new Date(cursor));
    if (!this.table.hidden) this.writeTable();
  }

  writeTable() {
    const table = element("table", "", "table");
    const head = table.createTHead().insertRow();
    head.append(Object.assign(element("th", t("trend.time")), { scope: "col" }), ...this.lines.map(({ series }) => Object.assign(element("th", `${parameterName(series.p)} ${unitText(series.unit)}`, "num"), { scope: "col" })));
    const body = table.createTBody();
    const count = 24;
    const step = (this.until - this.since) / count;
    const left = this.left() ?? this.since;
    for (let i = count - 1; i >= 0; i -= 1) {
      const from = this.since + i * step;
      const line = body.insertRow();
      if (from < left) line.className = "former";
      line.append(Object.assign(element("th", localTime(new Date(from))), { scope: "row" }));
      for (const { series } of this.lines) {
        const inside = series.at.map((at, k) => k).filter((k) => series.at[k] >= from && series.at[k] < from + step);
        const mean = inside.reduce((sum, k) => sum + series.mean[k], 0) / inside.length;
        const [value, range] = this.said(series, mean, Math.min(...inside.map((k) => series.low[k])), Math.max(...inside.map((k) => series.high[k])));
        line.append(element("td", inside.length ? value.textContent + (range.textContent ? ` (${range.textContent})` : "") : "—", "num"));
      }
    }
    this.table.replaceChildren(table);
  }
}
