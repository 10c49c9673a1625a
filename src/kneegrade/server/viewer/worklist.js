// The worklist: ten thousand films, of which only the visible rows are in the page.

import { $, h } from "./dom.js";

const ROW = 46; // pixels; see .row in viewer.css
const OVERSCAN = 6;
const FLAGS = [["not graded", 1], ["unusual", 2], ["incoherent", 4], ["uncertain", 8], ["readers differ", 16]];
const STATUS = { new: "to read", draft: "begun", read: "read", signed: "signed", unreadable: "not readable" };
const FILTERS = [
  ["all", "All films", () => true],
  ["todo", "To read", (film) => film.status === "new" || film.status === "draft"],
  ["eyes", "Needs eyes", (film) => film.flags !== 0],
  ...FLAGS.map(([name, bit]) => [name, name[0].toUpperCase() + name.slice(1), (film) => (film.flags & bit) !== 0]),
  ["read", "Read", (film) => film.status === "read" || film.status === "signed"],
  ["signed", "Signed", (film) => film.status === "signed"],
];
const statusText = (film) => {
  if (film.unsaved) return "not saved";
  if (film.withdrawn) return "withdrawn";
  return film.reader && film.status !== "new" ? `${STATUS[film.status]} · ${film.reader}` : STATUS[film.status];
};
const highest = (film) => Math.max(-1, ...film.knees.map(([, kl]) => kl ?? -1));
const SORTS = [
  ["eyes", "Needs eyes first", (a, b) => b.doubt - a.doubt],
  ["order", "In order", () => 0],
  ["name", "By name", (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })],
  ["kl", "By KL, highest first", (a, b) => highest(b) - highest(a)],
  ["status", "By status", (a, b) => Object.keys(STATUS).indexOf(a.status) - Object.keys(STATUS).indexOf(b.status)],
];

export const flagNames = (flags) => FLAGS.filter(([, bit]) => flags & bit).map(([name]) => name);

export class Worklist extends EventTarget {
  constructor() {
    super();
    this.films = [];
    this.shown = [];
    this.open = null;
    this.rows = new Map();
    this.list = $("list");
    this.space = $("list-space");
    $("filter").append(...FILTERS.map(([value, label]) => h("option", { value }, label)));
    $("sort").append(...SORTS.map(([value, label]) => h("option", { value }, label)));
    for (const id of ["filter", "sort"]) $(id).addEventListener("change", () => this.arrange());
    $("search").addEventListener("input", () => this.arrange());
    this.list.addEventListener("scroll", () => this.render(), { passive: true });
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.choose(Number(row.dataset.at));
    });
    this.list.addEventListener("keydown", (event) => {
      if (event.key === "Enter") { event.preventDefault(); event.stopPropagation(); this.choose(Math.max(0, this.at)); }
    });
    new ResizeObserver(() => this.render()).observe(this.list);
  }

  /** Takes the films of the server. */
  fill({ films, mode }) {
    this.films = films;
    this.mode = mode;
    $("sort").value = mode === "blind" ? "order" : "eyes";
    this.arrange();
  }

  arrange() {
    const wanted = $("search").value.trim().toLowerCase();
    const keep = FILTERS.find(([value]) => value === $("filter").value)[2];
    const compare = SORTS.find(([value]) => value === $("sort").value)[2];
    this.shown = this.films.filter((film) => keep(film) && (!wanted || film.name.toLowerCase().includes(wanted)));
    this.shown = this.shown.map((film, i) => [film, i]).sort((a, b) => compare(a[0], b[0]) || a[1] - b[1]).map(([film]) => film);
    this.space.style.height = `${this.shown.length * ROW}px`;
    $("list-count").textContent = this.shown.length === this.films.length ? `${this.films.length} ${this.films.length === 1 ? "film" : "films"}` : `${this.shown.length} of ${this.films.length} films`;
    this.refresh();
  }

  /** Position of the open film in the list, -1 if it is not there. */
  get at() { return this.shown.indexOf(this.open); }

  choose(at) {
    const film = this.shown[at];
    if (film) this.dispatchEvent(new CustomEvent("choose", { detail: film }));
  }

  /** The film `step` places after the open one; with `unread`, the next one that is to be read. */
  next(step, { unread = false } = {}) {
    let at = this.at + step;
    while (unread && this.shown[at] && !["new", "draft"].includes(this.shown[at].status)) at += step;
    return this.shown[at] ?? null;
  }

  show(film) {
    this.open = film;
    const at = this.at;
    if (at >= 0) {
      const top = at * ROW, { scrollTop, clientHeight } = this.list;
      if (top < scrollTop || top + ROW > scrollTop + clientHeight) this.list.scrollTop = Math.max(0, top - clientHeight / 3);
    }
    this.refresh();
  }

  find(key, repeat = 0) { return this.films.find((film) => film.key === key && film.repeat === repeat); }

  /** Rebuilds the visible rows and the progress. */
  refresh() {
    this.rows.forEach((row) => row.remove());
    this.rows.clear();
    this.render();
    const read = this.films.filter((film) => film.status === "read" || film.status === "signed").length;
    const unreadable = this.films.filter((film) => film.status === "unreadable").length, readable = this.films.length - unreadable;
    $("progress").max = Math.max(1, readable);
    $("progress").value = read;
    $("progress-text").textContent = `${read} of ${readable} read${unreadable ? `, ${unreadable} not readable` : ""}`;
  }

  render() {
    const { scrollTop, clientHeight } = this.list;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - OVERSCAN), last = Math.min(this.shown.length, Math.ceil((scrollTop + clientHeight) / ROW) + OVERSCAN);
    this.rows.forEach((row, at) => { if (at < first || at >= last) { row.remove(); this.rows.delete(at); } });
    for (let at = first; at < last; at++) {
      if (!this.rows.has(at)) {
        const row = this.row(this.shown[at], at);
        this.rows.set(at, row);
        this.space.append(row);
      }
    }
    const chosen = this.rows.get(this.at);
    if (chosen) this.list.setAttribute("aria-activedescendant", chosen.id);
    else this.list.removeAttribute("aria-activedescendant");
  }

  row(film, at) {
    const flags = flagNames(film.flags);
    const knees = film.knees.map(([side, kl, machine]) => h("span", { className: `chip g${kl ?? "x"}${machine !== null && machine !== kl ? " changed" : ""}` },
      h("i", {}, side === "unknown" ? "?" : side), h("span", { className: "sr" }, " knee, KL"), ` ${kl ?? "–"}`));
    const row = h("div", { className: `row is-${film.unsaved ? "unsaved" : film.withdrawn ? "withdrawn" : film.status}`, role: "option", id: `row-${at}`, "aria-selected": String(film === this.open), "aria-setsize": this.shown.length,
      "aria-posinset": at + 1, dataset: { at: String(at), key: film.key } },
    h("div", {}, h("span", { className: "name", title: film.name }, film.name), h("span", { className: "chips" }, ...knees)),
    h("div", {}, h("span", { className: "flags", title: flags.join(", ") }, flags.join(", ")), h("span", { className: "status" }, statusText(film))));
    row.style.transform = `translateY(${at * ROW}px)`;
    return row;
  }
}
