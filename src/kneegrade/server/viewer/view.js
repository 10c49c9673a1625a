// One view of a film: pixels, outlines, landmarks, calipers, evidence; zoom, pan and window by pointer.

import { h, s } from "./dom.js";
import { screenOf } from "./screen.js";

const BONES = [[0, 37], [37, 74]];
const SMALLEST = 1.6, LARGEST = 6.5, PLAIN = 3.2; // radii of points in pixels of the screen
const ZOOM = [0.02, 40];
const BOX = 1.25; // side of the square that shows a knee, in plateau widths

const style = getComputedStyle(document.documentElement);
const [against, neutral, favour] = ["--against", "--neutral", "--favour"].map((name) =>
  style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16)));

/** Colour of a contribution: t = -1 fully against, 0 neutral, +1 fully for the grade. */
const colour = (t) => {
  const end = t < 0 ? against : favour;
  return `rgb(${neutral.map((c, i) => Math.round(c + (end[i] - c) * Math.abs(t))).join(" ")})`;
};

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class FilmView {
  /**
   * @param {object} page shared state: `tool`, `layers`, `selection`, and `refresh()` for all views.
   */
  constructor(page) {
    this.page = page;
    this.canvas = h("canvas", { role: "img" });
    this.group = s("g");
    this.svg = s("svg", { class: "overlay", "aria-hidden": "true" }, this.group);
    this.caption = h("p", { className: "caption" });
    this.element = h("div", { className: "view", tabIndex: -1 }, this.canvas, this.svg, this.caption);
    this.view = { x: 0, y: 0, k: 1 };
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.resized()).observe(this.element);
  }

  /** Shows a film, or one knee of it. */
  bind(film, { knee = null, caption = "", editable = true } = {}) {
    this.screen ??= screenOf(this.canvas); // only now: a context of the graphics card takes time
    if (this.film !== film) { this.film = film; this.screen.load(film.levels); }
    Object.assign(this, { knee, editable });
    this.caption.textContent = caption;
    this.caption.hidden = !caption;
    this.canvas.setAttribute("aria-label", `Radiograph ${film.name}${caption ? `, ${caption}` : ""}`);
    this.build();
    this.fit();
  }

  get box() { return { w: this.element.clientWidth, h: this.element.clientHeight }; }

  /** Fits the film, or the knee of this view, into the view. */
  fit() {
    const { film } = this, { w, h: high } = this.box;
    if (!film || !w || !high) return;
    const place = this.knee === null ? null : film.places[this.knee];
    const region = place
      ? { x: place.x - BOX * place.width / 2, y: place.y - BOX * place.width / 2, w: BOX * place.width, h: BOX * place.width }
      : { x: 0, y: 0, w: film.width, h: film.height };
    this.view.k = Math.min(w / region.w, high / region.h);
    this.view.x = w / 2 - (region.x + region.w / 2) * this.view.k;
    this.view.y = high / 2 - (region.y + region.h / 2) * this.view.k;
    this.fitted = true;
    this.draw();
  }

  resized() { if (this.film) { if (this.fitted) this.fit(); else this.draw(); } }

  zoom(factor, x = this.box.w / 2, y = this.box.h / 2) {
    const k = clamp(this.view.k * factor, ...ZOOM), f = k / this.view.k;
    this.view = { x: x - (x - this.view.x) * f, y: y - (y - this.view.y) * f, k };
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.fitted = false;
    this.draw();
  }

  /** Draws the pixels and puts the drawing at its place, at the next frame. */
  draw() {
    if (this.waiting || !this.film) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      const { x, y, k } = this.view;
      this.screen.show(this.view, this.film.grey);
      this.group.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
      this.sizePoints();
    });
  }

  build() {
    const { film } = this;
    this.drawn = film.reading.knees.map((_, i) => {
      if (!film.points(i)) return null;
      const lines = BONES.map(() => s("polyline", { class: "bone" }));
      const bars = { medial: s("line", { class: "caliper" }), lateral: s("line", { class: "caliper" }) };
      const labels = { medial: s("text", { class: "width" }), lateral: s("text", { class: "width" }) };
      const dots = Array.from({ length: 74 }, (_, n) => s("circle", { class: "point", "data-knee": i, "data-i": n }));
      const hits = this.editable ? Array.from({ length: 74 }, (_, n) => s("circle", { class: "hit", "data-knee": i, "data-i": n })) : [];
      return { lines, bars, labels, dots, hits };
    });
    this.group.replaceChildren(...this.drawn.flatMap((one) => (one ? [...one.lines, ...Object.values(one.bars), ...one.dots, ...one.hits, ...Object.values(one.labels)] : [])));
    this.update();
  }

  /** Redraws outlines, points and calipers from the film's reading. */
  update() {
    const { film, page } = this;
    if (!film) return;
    const present = film.reading.knees.map((_, i) => Boolean(film.points(i)));
    if (present.length !== this.drawn.length || present.some((has, i) => has !== Boolean(this.drawn[i]))) { this.build(); return; }
    this.svg.classList.toggle("is-closed", film.closed);
    for (const [name, on] of Object.entries(page.layers)) this.svg.classList.toggle(`no-${name}`, !on);
    this.drawn.forEach((one, i) => { if (one) { this.place(one, i); this.paint(one, i); } });
    this.sizePoints();
  }

  /** Redraws one outline while a point of it is dragged, at the next frame. */
  follow(i) {
    if (this.following || !this.drawn?.[i]) return;
    this.following = true;
    requestAnimationFrame(() => {
      this.following = false;
      const one = this.drawn[i], at = this.film.points(i);
      if (!one || !at) return;
      one.lines.forEach((line, b) => line.setAttribute("points", at.slice(...BONES[b]).map(([x, y]) => `${(x + 0.5).toFixed(2)},${(y + 0.5).toFixed(2)}`).join(" ")));
      one.dots.forEach((dot, n) => {
        const [x, y] = at[n], shown = dot.at;
        if (shown && Math.abs(shown[0] - x) + Math.abs(shown[1] - y) < 0.02) return; // most points do not move
        dot.at = at[n];
        dot.setAttribute("cx", x + 0.5);
        dot.setAttribute("cy", y + 0.5);
      });
    });
  }

  place(one, i) {
    const at = this.film.points(i).map(([x, y]) => [x + 0.5, y + 0.5]); // the first pixel's centre is (0, 0)
    one.lines.forEach((line, b) => line.setAttribute("points", at.slice(...BONES[b]).join(" ")));
    for (const group of [one.dots, one.hits]) group.forEach((dot, n) => { dot.setAttribute("cx", at[n][0]); dot.setAttribute("cy", at[n][1]); dot.at = null; });
    this.placeCalipers(one, i);
  }

  placeCalipers(one, i) {
    const measured = this.film.measured[i];
    for (const [name, bar] of Object.entries(one.bars)) {
      const line = measured?.lines[name];
      bar.classList.toggle("absent", !line);
      one.labels[name].classList.toggle("absent", !line);
      if (!line) continue;
      const [[x1, y1], [x2, y2]] = line.map(([x, y]) => [x + 0.5, y + 0.5]);
      Object.entries({ x1, y1, x2, y2 }).forEach(([key, value]) => bar.setAttribute(key, value));
      const width = measured[name];
      one.labels[name].textContent = width.fraction === 0 ? "0" : width.mm === null ? `${(100 * width.fraction).toFixed(1)} %` : `${width.mm.toFixed(1)} mm`;
      one.labels[name].dataset.x = (x1 + x2) / 2;
      one.labels[name].dataset.y = Math.max(y1, y2);
    }
  }

  /** Colours and ranks the points by their contribution to the selected grade. */
  paint(one, i) {
    const { film, page } = this, evidence = page.layers.evidence && film.evidence?.[i]?.[page.selection.name];
    const grade = film.reading.knees[i].grades[page.selection.name] ?? film.machine(i)?.grades?.[page.selection.name]?.grade;
    const values = evidence && grade !== undefined ? evidence.points.map((row) => row?.[grade] ?? null) : null;
    const top = values ? Math.max(1e-9, ...values.map(Math.abs)) : 1;
    one.radii = one.dots.map((dot, n) => {
      const moved = page.marked?.knee === i && page.marked.index === n;
      dot.classList.toggle("marked", moved);
      if (!values) { dot.style.fill = ""; dot.classList.remove("unread"); return PLAIN; }
      const value = values[n];
      dot.classList.toggle("unread", value === null);
      dot.style.fill = value === null ? "none" : colour(value / top);
      return value === null ? SMALLEST : SMALLEST + (LARGEST - SMALLEST) * Math.sqrt(Math.abs(value) / top);
    });
  }

  sizePoints() {
    const k = this.view.k, small = this.page.touch ? 13 : 8;
    this.drawn?.forEach((one) => {
      if (!one?.radii) return;
      one.dots.forEach((dot, n) => dot.setAttribute("r", (dot.classList.contains("marked") ? Math.max(6, one.radii[n]) : one.radii[n]) / k));
      one.hits.forEach((dot) => dot.setAttribute("r", small / k));
      this.sizeLabels(one);
    });
  }

  sizeLabels(one) {
    Object.values(one.labels).forEach((label) => {
      label.setAttribute("transform", `translate(${label.dataset.x ?? 0} ${label.dataset.y ?? 0}) scale(${1 / this.view.k}) translate(0 20)`);
    });
  }

  listen() {
    const { element } = this;
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = element.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 30 : 1) / 500), event.clientX - box.x, event.clientY - box.y);
    }, { passive: false });
    element.addEventListener("dblclick", () => this.fit());
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, (event) => this.up(event));
  }

  /** Position on the film, in pixels whose first has its centre at (0, 0), of a position in the window. */
  toFilm(x, y) {
    const box = this.element.getBoundingClientRect();
    return [(x - box.x - this.view.x) / this.view.k - 0.5, (y - box.y - this.view.y) / this.view.k - 0.5];
  }

  /** The landmark nearest to a position on the film; where several overlap, the topmost would be any of them. */
  nearest([x, y]) {
    let best = { distance: Infinity };
    this.drawn.forEach((one, knee) => one && this.film.points(knee).forEach(([px, py], index) => {
      const distance = Math.hypot(px - x, py - y);
      if (distance < best.distance) best = { knee, index, distance };
    }));
    return best;
  }

  async down(event) {
    if (!this.film) return;
    this.element.setPointerCapture(event.pointerId);
    this.page.touch = event.pointerType === "touch";
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.pointers.size === 2) { this.action = "pinch"; return; }
    if (event.target.closest?.(".hit") && event.button === 0 && !event.shiftKey && !this.film.closed) {
      const { knee, index } = this.nearest(this.toFilm(event.clientX, event.clientY));
      this.action = "wait";
      this.page.mark(knee, index);
      await this.film.startMoving(knee, index);
      if (!this.pointers.has(event.pointerId)) return;
      Object.assign(this, { action: "move", moving: { knee, index } });
      const now = this.pointers.get(event.pointerId); // the pointer may have moved while the shape was loaded
      if (now[0] !== event.clientX || now[1] !== event.clientY) this.film.move(knee, index, this.toFilm(...now));
      return;
    }
    const panning = event.button === 1 || event.button === 2 || event.shiftKey || this.page.tool === "pan";
    this.action = panning ? "pan" : "window";
  }

  drag(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const dx = event.clientX - last[0], dy = event.clientY - last[1];
    if (this.action === "pinch" && this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const box = this.element.getBoundingClientRect();
      const before = Math.hypot(last[0] - other[0], last[1] - other[1]), after = Math.hypot(event.clientX - other[0], event.clientY - other[1]);
      this.zoom(after / Math.max(before, 1), (event.clientX + other[0]) / 2 - box.x, (event.clientY + other[1]) / 2 - box.y);
      this.pan(dx / 2, dy / 2);
    } else if (this.action === "pan") this.pan(dx, dy);
    else if (this.action === "window") this.page.window(dx, dy, this.film);
    else if (this.action === "move") {
      const { knee, index } = this.moving;
      this.film.move(knee, index, this.toFilm(event.clientX, event.clientY));
    }
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.action === "move") this.film.endMoving();
    if (["move", "wait"].includes(this.action)) this.page.mark(0, null); // the arrows choose grades again
    if (this.pointers.size === 0) this.action = null;
  }
}
