// The reader's page: worklist, film, reading. What is computed is computed by the server; every change is saved at once.

import { begin, getJson, post, Refused, hasTried, Unreachable, useToken } from "./api.js";
import { askToken, question, showHelp } from "./dialogs.js";
import { $, h, toast } from "./dom.js";
import { Film, SIDES } from "./film.js";
import { listenForKeys } from "./keyboard.js";
import { GRADES, Panel } from "./panel.js";
import { Saving } from "./saving.js";
import { loadShape } from "./shape.js";
import { FilmView } from "./view.js";
import { Worklist } from "./worklist.js";

const KEPT = 3; // films in memory: the open one, the next one, and the one before
const MODES = { shared: "", blind: "Blind reading", adjudicate: "Adjudication" };
const REOPEN_MS = 2000; // after the server did not answer
const TOUCH = matchMedia("(pointer: coarse)").matches;

const worklist = new Worklist();
const films = new Map(); // "key/repeat" → promise of a Film, the last used at the end
const loaded = new Map(); // "key/repeat" → Film
let film = null;

const page = {
  tool: TOUCH ? "pan" : "window",
  touch: TOUCH,
  layers: { outlines: true, points: true, calipers: true, evidence: true },
  selection: { knee: 0, name: "kl" },
  layout: "film",
  marked: null,
  row: null,
  beside: null,

  select(knee, name) {
    if (page.selection.knee === knee && page.selection.name === name) return;
    page.selection = { knee, name };
    refresh();
    const label = GRADES.find(([one]) => one === name)[2];
    if ($("cursor-text")) $("cursor-text").textContent = `${label}, ${SIDES[film.reading.knees[knee].side]}`;
  },

  set(knee, name, grade) {
    if (!film) return;
    film.change((next) => {
      const own = next.knees[knee];
      if (!own.gradable) Object.assign(own, { gradable: true, reason: "" });
      if (grade === null) delete own.grades[name];
      else own.grades[name] = grade;
    });
  },

  toggleGradable(knee) {
    film.change((next) => { const own = next.knees[knee]; own.gradable = !own.gradable; if (own.gradable) own.reason = ""; });
    if (!film.reading.knees[knee].gradable) document.querySelector(`.reason[data-knee="${knee}"]`)?.focus();
  },

  mark(knee, index) {
    page.marked = index === null ? null : { knee, index };
    if (page.marked) page.selection = { ...page.selection, knee };
    refresh();
  },

  window(dx, dy, of) {
    const { low, high } = of.grey, centre = (low + high) / 2 + (of.grey.inverted ? -dy : dy) * 90, width = Math.max(400, (high - low) * Math.exp(dx / 300));
    Object.assign(of.grey, { low: centre - width / 2, high: centre + width / 2 });
    views.forEach((view) => view.draw());
  },

  undo() {
    if (film?.closed) film.say("closed");
    else if (film && !film.undo()) toast("Nothing to undo.");
  },
  async finish() { await finish("read"); },
  async sign() {
    if (!film || film.mode !== "shared") return;
    if (film.isSigned) await page.withdraw();
    else if (await saving.wantsToSign()) await finish("signed");
  },
  async withdraw() { if (film?.saved.status === "signed") await saving.withdraw(film); },

  async compare(other) {
    page.beside = other === null ? null : { film: await load(other.key, 0), name: other.name };
    layOut();
  },
};

const views = [new FilmView(page), new FilmView(page), new FilmView(page)];
const panel = new Panel(page);
const app = {
  page, views, worklist, loaded, refresh: () => refresh(), move: (step) => move(step), goOn: () => goOn(), reopen: () => page.row && open(page.row), active: () => active(),
  otherLayout: () => otherLayout(), resetView: () => resetView(), invert: () => invert(), toggleLayer: (name) => toggleLayer(name), otherTool: () => otherTool(),
  get film() { return film; },
};
const saving = new Saving(app);
window.kneegrade = { page, views, worklist, get film() { return film; } }; // for tests and for curious readers

// Loading

const load = (key, repeat) => {
  const id = `${key}/${repeat}`;
  const known = films.get(id);
  const wanted = known ?? Film.load(key, repeat).then((made) => { loaded.set(id, made); connect(made); made.restore(); return made; });
  films.delete(id);
  films.set(id, wanted);
  wanted.catch(() => films.delete(id));
  if (films.size > KEPT) {
    for (const [old, promise] of films) {
      if (films.size <= KEPT) break;
      if (old !== id) promise.then((one) => { if (!one.isDirty && one !== film && one !== page.beside?.film) { films.delete(old); loaded.delete(old); } }, () => {});
    }
  }
  return wanted;
};

const connect = (one) => {
  one.addEventListener("change", () => {
    if (one !== film) return;
    refresh();
    panel.askCoherence();
    state();
  });
  one.addEventListener("closed", () => toast(one.locked ? "This reading is finished and cannot be changed." : "This film is signed. Withdraw the signature (s) before you change it."));
  one.addEventListener("saved", () => {
    note(one);
    state();
    if (one === film) refresh();
    if (one.evidence) one.loadEvidence(); // at the moved landmarks
  });
  one.addEventListener("moving", () => { if (one === film) views.forEach((view) => { if (view.film === one && view.element.isConnected) view.follow(one.moving); }); });
  one.addEventListener("measured", () => { if (one === film) showWidths(one); });
  one.addEventListener("evidence", () => { if (one === film) refresh(); });
  one.addEventListener("conflict", () => { state(); if (one === film) saving.resolve(one); });
};

/** Puts the saved reading into the worklist. */
const note = (one) => {
  const row = worklist.find(one.key, one.repeat);
  if (!row || one.state !== "saved") return;
  const machine = row.knees.map((knee) => knee[2]);
  row.knees = one.reading.knees.map((knee, i) => [knee.side, knee.gradable ? knee.grades.kl ?? null : null, machine[i] ?? null]);
  row.status = one.reading.status;
  row.withdrawn = one.mode === "shared" && Boolean(one.signed) && row.status !== "signed";
  row.reader = one.mode === "blind" ? null : one.reader;
  worklist.refresh();
  for (const text of one.notes ?? []) toast(text);
  if (one.notes?.length) one.outcome = one.notes.join(" ").replace(/^Signed\. /, "");
  one.notes = [];
};

const state = () => saving.show();

const open = async (row) => {
  const started = performance.now();
  worklist.show(row);
  page.row = row;
  page.beside = null;
  page.marked = null;
  $("worklist").classList.remove("is-open");
  $("films-button").setAttribute("aria-expanded", "false");
  $("stage-note").textContent = "Opening…";
  try {
    const opened = await load(row.key, row.repeat);
    if (page.row !== row) return;
    film = opened;
    if (row.status === "unreadable") { row.status = film.revision ? film.reading.status : "new"; worklist.refresh(); }
  } catch (error) {
    if (page.row !== row) return;
    film = null;
    views.forEach((view) => view.element.remove());
    $("stage-note").textContent = error.message;
    $("panel").replaceChildren(h("h2", {}, row.name), h("p", {}, error.message));
    state();
    if (error instanceof Unreachable) setTimeout(() => { if (page.row === row && !film) open(row); }, REOPEN_MS);
    if (error instanceof Refused && error.status !== 401 && error.status < 500 && ["new", "draft"].includes(row.status)) { row.status = "unreadable"; worklist.refresh(); }
    document.body.dataset.opened = row.key;
    return;
  }
  $("stage-note").textContent = "";
  page.selection = { knee: Math.min(page.selection.knee, Math.max(0, film.reading.knees.length - 1)), name: film.revision ? page.selection.name : "kl" };
  if (!film.revision) page.selection.knee = 0;
  layOut();
  panel.bind(film);
  state();
  if (film.state === "conflict") saving.resolve(film);
  film.remeasure();
  requestAnimationFrame(() => requestAnimationFrame(() => { page.openedMs = performance.now() - started; document.body.dataset.opened = row.key; }));
  setTimeout(() => {
    if (page.row !== row) return;
    const next = worklist.next(1);
    if (next) load(next.key, next.repeat).catch(() => {});
    if (film && !film.hidden) { loadShape().catch(() => {}); film.loadEvidence(); }
  }, 30);
};

const move = (step) => {
  const next = worklist.next(step);
  if (next) open(next);
  else toast(step > 0 ? "This is the last film of the list." : "This is the first film of the list.");
};

// Finishing

const missing = () => film.reading.knees.some((knee) => knee.gradable && knee.grades.kl === undefined);
const unexplained = () => film.reading.knees.findIndex((knee) => !knee.gradable && !knee.reason.trim());

/** Opens the next film that is to be read; without one, says so. */
const goOn = async () => {
  const next = worklist.next(1, { unread: true });
  if (next) await open(next);
  else toast("All films of the list are read.");
};

const finish = async (status) => {
  if (!film || film.closed) return move(1);
  if (missing()) return toast("A gradable knee has no KL grade yet. Give it, or say that the knee is not gradable.");
  if (unexplained() >= 0) {
    document.querySelector(`.reason[data-knee="${unexplained()}"]`)?.focus();
    return toast("Say why the knee is not gradable.");
  }
  const finished = film;
  const isStudy = finished.mode !== "shared", id = `${finished.key}/${finished.repeat}`;
  if (isStudy && !(await question("Finish this reading?", "The grades of kneegrade are shown afterwards, so this reading cannot be changed after it is finished.", "Finish"))) return;
  finished.change((next) => { next.status = status; });
  await saving.settled(finished);
  if (finished.isDirty || finished.reading.status !== status) return;
  if (isStudy) { films.delete(id); loaded.delete(id); }
  const next = worklist.next(1, { unread: true });
  if (next && film === finished) await open(next);
  else if (!next) {
    toast("All films of the list are read.");
    if (isStudy && film === finished) await open(page.row);
  }
};

// Layout

const layOut = () => {
  if (!film) return;
  const hasKnees = film.places.filter(Boolean).length;
  const shown = [];
  if (page.layout === "knees" && hasKnees) {
    film.places.forEach((place, i) => { if (place) shown.push([film, { knee: i, caption: SIDES[film.reading.knees[i].side] }]); });
  } else shown.push([film, {}]);
  if (page.beside) shown.splice(2, 1, [page.beside.film, { caption: page.beside.name, editable: false }]);
  const box = $("views");
  box.className = `views has-${Math.min(3, shown.length)}`;
  views.forEach((view, i) => { if (!shown[i]) view.element.remove(); else if (!view.element.isConnected) box.append(view.element); });
  shown.slice(0, 3).forEach(([one, options], i) => views[i].bind(one, options));
  tools();
};

const active = () => views.find((view) => view.element.isConnected && view.element.contains(document.activeElement)) ?? views[0];

const refresh = () => {
  if (!film) return;
  views.forEach((view) => { if (view.element.isConnected && view.film === film) view.update(); });
  panel.update();
  tools();
};

/** Shows new widths; while a landmark is dragged, nothing else. */
const showWidths = (one) => {
  if (one.moving === null || one.moving === undefined) { refresh(); return; }
  views.forEach((view) => {
    const drawn = view.film === one && view.element.isConnected ? view.drawn[one.moving] : null;
    if (!drawn) return;
    view.placeCalipers(drawn, one.moving);
    view.sizeLabels(drawn);
  });
  panel.updateSpace(one.moving);
};

const toggleLayer = (name) => { page.layers[name] = !page.layers[name]; refresh(); };
const resetView = () => { Object.assign(film.grey, { low: 0, high: 65535, inverted: false }); views.forEach((view) => view.element.isConnected && view.fit()); tools(); };
const invert = () => { film.grey.inverted = !film.grey.inverted; views.forEach((view) => view.draw()); tools(); };
const otherLayout = () => { page.layout = page.layout === "film" ? "knees" : "film"; layOut(); };
const otherTool = () => { page.tool = page.tool === "pan" ? "window" : "pan"; tools(); };

const TOOLS = [
  ["layout", "Knees", "Both knees side by side (v)", otherLayout, () => page.layout === "knees"], ["fit", "Reset", "Fit, and reset the window (f)", () => resetView(), null],
  ["invert", "Invert", "Invert (i)", () => invert(), () => film?.grey.inverted], ["tool", "Pan", "Drag pans instead of changing the window (d)", otherTool, () => page.tool === "pan"],
  ["in", "+", "Zoom in (+)", () => active().zoom(1.25), null], ["out", "−", "Zoom out (−)", () => active().zoom(0.8), null],
  ["outlines", "Outlines", "Outlines (o)", () => toggleLayer("outlines"), () => page.layers.outlines], ["points", "Landmarks", "Landmarks (l)", () => toggleLayer("points"), () => page.layers.points],
  ["calipers", "Calipers", "Calipers (c)", () => toggleLayer("calipers"), () => page.layers.calipers], ["evidence", "Evidence", "Evidence of each landmark for the selected grade (e)", () => toggleLayer("evidence"), () => page.layers.evidence],
];

$("toolbar").append(...TOOLS.map(([id, label, title, act, isOn]) => h("button", { type: "button", id: `tool-${id}`, className: "plain", title, "aria-label": label.length > 1 ? `${label}: ${title}` : title, "aria-pressed": isOn ? "false" : null, onclick: () => { if (film) act(); } }, label)));

const tools = () => TOOLS.forEach(([id, , , , isOn]) => {
  const button = $(`tool-${id}`);
  if (isOn) button.setAttribute("aria-pressed", String(Boolean(isOn())));
  if (["outlines", "points", "calipers", "evidence"].includes(id)) button.hidden = Boolean(film?.hidden);
});

listenForKeys(app);

// Start

worklist.addEventListener("choose", async (event) => {
  await open(event.detail);
  views[0].element.focus({ preventScroll: true }); // the arrows now choose grades
});
$("help-button").addEventListener("click", showHelp);
$("films-button").addEventListener("click", () => $("films-button").setAttribute("aria-expanded", String($("worklist").classList.toggle("is-open"))));
$("export-button").addEventListener("click", async () => {
  try {
    const { folder, files, notes } = await post("/v1/labels");
    toast([`Wrote ${files.join(", ")} to ${folder}.`, ...notes].join(" "));
  } catch (error) { toast(error.message); }
});
addEventListener("beforeunload", (event) => { if (saving.dirty.length) event.preventDefault(); });

const start = async () => {
  try {
    const reader = await begin();
    let found = await getJson("/v1/worklist");
    saving.begin(found);
    worklist.films = found.films;
    const sent = await saving.resend(), waiting = worklist.films.filter((row) => row.unsaved);
    if (sent) {
      found = await getJson("/v1/worklist");
      toast(`Saved the changes of ${sent === 1 ? "1 film" : `${sent} films`} that this browser had kept.`);
    }
    document.title = `${found.title} – kneegrade reader`;
    $("title").textContent = found.title;
    $("mode").textContent = [found.study ? `${MODES[found.mode]} “${found.study}”` : "", found.reader || reader].filter(Boolean).join(" · ");
    document.body.dataset.mode = found.mode;
    $("export-button").hidden = found.mode === "blind";
    worklist.fill(found);
    for (const row of waiting) worklist.find(row.key, row.repeat).unsaved = true;
    worklist.refresh();
    $("waiting").hidden = !found.waiting.length;
    $("waiting").textContent = `Not finished: ${found.waiting.map((one) => `${one.reader} (${one.done} of ${one.total})`).join(", ")}. Films that all readers have read are listed.`;
    document.body.dataset.ready = "true";
    const first = waiting.length ? worklist.find(waiting[0].key, waiting[0].repeat) : worklist.shown[0];
    if (first) open(first);
    else $("stage-note").textContent = found.mode === "adjudicate" ? "There is no film that all readers of this study have read and on which they differ." : "There are no films.";
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      const token = await askToken(hasTried() ? error.message : "Type your token. Whoever runs the service gives one to each reader.");
      if (token) { await useToken(token); await start(); } else $("stage-note").textContent = error.message;
    } else $("stage-note").textContent = error.message;
  }
};

await start();
