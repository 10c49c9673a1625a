// The reader's page: worklist, film, reading. What is computed is computed by the server; every change is saved at once.

import { begin, getJson, post, Refused, hasTried, useToken } from "./api.js";
import { askToken, decideConflict, question, showHelp } from "./dialogs.js";
import { $, h, toast } from "./dom.js";
import { Film, SIDES } from "./film.js";
import { GRADES, Panel } from "./panel.js";
import { loadShape } from "./shape.js";
import { FilmView } from "./view.js";
import { Worklist } from "./worklist.js";

const KEPT = 3; // films in memory: the open one, the next one, and the one before
const MODES = { shared: "", blind: "Blind reading", adjudicate: "Adjudication" };
const SAVED = { untouched: "", saving: "Saving…", saved: "Saved", offline: "Not saved: the server does not answer. Trying again…", conflict: "Changed by another reader", refused: "Not saved" };
const TOUCH = matchMedia("(pointer: coarse)").matches;

const worklist = new Worklist();
const films = new Map(); // "key/repeat" → promise of a Film, the last used at the end
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
    if (!film || film.locked) return;
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

  undo() { if (film && !film.undo()) toast("Nothing to undo."); },
  async finish() { await finish("read"); },
  async sign() {
    if (!film || film.mode !== "shared" || film.locked) return;
    if (await question("Sign this reading?", "The signature names you as the reader. In a hospital it makes a revision of the report.", "Sign")) await finish("signed");
  },

  async compare(other) {
    page.beside = other === null ? null : { film: await load(other.key, 0), name: other.name };
    layOut();
  },
};

const views = [new FilmView(page), new FilmView(page), new FilmView(page)];
const panel = new Panel(page);
window.kneegrade = { page, views, worklist, get film() { return film; } }; // for tests and for curious readers

// Loading

const load = (key, repeat) => {
  const id = `${key}/${repeat}`;
  const known = films.get(id);
  const wanted = known ?? Film.load(key, repeat).then((made) => { connect(made); return made; });
  films.delete(id);
  films.set(id, wanted);
  wanted.catch(() => films.delete(id));
  if (films.size > KEPT) {
    for (const [old, promise] of films) {
      if (films.size <= KEPT) break;
      if (old !== id) promise.then((one) => { if (!one.isDirty && one !== film && one !== page.beside?.film) films.delete(old); }, () => {});
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
  one.addEventListener("saved", () => { note(one); state(); if (one === film) panel.update(); });
  one.addEventListener("moving", () => { if (one === film) views.forEach((view) => { if (view.film === one && view.element.isConnected) view.follow(one.moving); }); });
  one.addEventListener("measured", () => { if (one === film) showWidths(one); });
  one.addEventListener("evidence", () => { if (one === film) refresh(); });
  one.addEventListener("conflict", () => { state(); if (one === film) resolve(one); });
};

/** Puts the saved reading into the worklist. */
const note = (one) => {
  const row = worklist.find(one.key, one.repeat);
  if (!row || one.state !== "saved") return;
  const machine = row.knees.map((knee) => knee[2]);
  row.knees = one.reading.knees.map((knee, i) => [knee.side, knee.gradable ? knee.grades.kl ?? null : null, machine[i] ?? null]);
  const wasSigned = row.status === "signed";
  row.status = one.reading.status;
  row.reader = one.mode === "blind" ? null : one.reader;
  if (wasSigned && row.status !== "signed") toast("The film was changed, so it is no longer signed. Press s to sign it again.");
  worklist.refresh();
  for (const text of one.notes ?? []) toast(text);
};

const state = () => {
  const box = $("saved"), now = film?.state ?? "untouched";
  const text = now === "refused" ? `${SAVED.refused}: ${film.problem}` : SAVED[now];
  if (box.textContent !== text) box.textContent = text;
  box.className = `saved is-${now}`;
  box.dataset.revision = film?.state === "saved" ? String(film.revision) : "";
};

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
  if (!film || film.locked) return move(1);
  if (missing()) return toast("A gradable knee has no KL grade yet. Give it, or say that the knee is not gradable.");
  if (unexplained() >= 0) {
    document.querySelector(`.reason[data-knee="${unexplained()}"]`)?.focus();
    return toast("Say why the knee is not gradable.");
  }
  const finished = film;
  if (finished.mode === "blind" && !(await question("Finish this reading?", "The grades of a blind reading cannot be changed after it is finished.", "Finish"))) return;
  finished.change((next) => { next.status = status; });
  await saved(finished);
  if (finished.isDirty) return;
  if (finished.mode === "blind") films.delete(`${finished.key}/${finished.repeat}`);
  const next = worklist.next(1, { unread: true });
  if (next && film === finished) await open(next);
  else if (!next) {
    toast("All films of the list are read.");
    if (finished.mode === "blind" && film === finished) await open(page.row);
  }
};

/** Waits until a film has nothing to save, or cannot save. */
const saved = (one) => new Promise((done) => {
  const look = () => {
    if (one.isDirty && !["conflict", "refused"].includes(one.state)) return;
    one.removeEventListener("saved", look);
    one.removeEventListener("conflict", look);
    done();
  };
  one.addEventListener("saved", look);
  one.addEventListener("conflict", look);
  look();
});

const resolve = async (one) => {
  const { conflict } = one;
  let merged = conflict.merged;
  if (conflict.differences.length) {
    merged = await decideConflict(conflict, one.reading.knees.map((knee) => SIDES[knee.side]));
    if (!merged) {
      merged = structuredClone(conflict.newest);
      toast(`You did not choose: the film now has the values of ${conflict.reader}. Press u to bring back yours.`);
    }
  } else toast(`Merged with the changes of ${conflict.reader}.`);
  one.resolve(merged);
  refresh();
  panel.askCoherence();
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

// Keyboard

const narrow = (factor, shift = 0) => {
  const { low, high } = film.grey, centre = (low + high) / 2 + shift * (high - low), width = Math.max(400, (high - low) * factor);
  Object.assign(film.grey, { low: centre - width / 2, high: centre + width / 2 });
  views.forEach((view) => view.draw());
};

const step = (dKnee, dGrade) => {
  const { knee, name } = page.selection, at = GRADES.findIndex(([one]) => one === name), knees = film.reading.knees.length;
  if (!knees) return;
  page.select(Math.min(knees - 1, Math.max(0, knee + dKnee)), GRADES[Math.min(GRADES.length - 1, Math.max(0, at + dGrade))][0]);
};

const grade = (value) => {
  const { knee, name } = page.selection;
  if (!film.reading.knees.length || film.locked) return;
  if (value >= GRADES.find(([one]) => one === name)[3]) return toast("This grade ends at 3.");
  page.set(knee, name, value);
  step(0, 1);
};

const nudge = async (dx, dy) => {
  const { knee, index } = page.marked, [x, y] = film.points(knee)[index];
  await film.startMoving(knee, index);
  film.move(knee, index, [x + dx, y + dy]);
  film.endMoving();
};

const markNext = (by) => {
  const knee = page.marked?.knee ?? page.selection.knee;
  if (!film.points(knee) || film.locked) return toast("This knee has no landmarks.");
  page.mark(knee, ((page.marked?.index ?? 55 - by) + by + 74) % 74);
};

const nextSide = () => film.change((next) => { const knee = next.knees[page.selection.knee]; if (knee) knee.side = { R: "L", L: "unknown", unknown: "R" }[knee.side]; });
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

const arrow = (event) => {
  const [dx, dy] = ARROWS[event.key];
  if (page.marked) nudge(dx * (event.shiftKey ? 5 : 1), dy * (event.shiftKey ? 5 : 1));
  else if (event.shiftKey) active().pan(-40 * dx, -40 * dy);
  else step(dx, dy);
};

const COMMANDS = {
  n: () => move(1), p: () => move(-1), s: () => page.sign(), u: () => page.undo(), y: () => film.redo() || toast("Nothing to redo."), x: () => film.reading.knees.length && page.toggleGradable(page.selection.knee), k: nextSide,
  t: () => $("note")?.focus(), v: otherLayout, f: resetView, i: invert, w: () => narrow(0.8), W: () => narrow(1.25), b: () => narrow(1, 0.06), B: () => narrow(1, -0.06), "+": () => active().zoom(1.25), "=": () => active().zoom(1.25), "-": () => active().zoom(0.8),
  o: () => toggleLayer("outlines"), l: () => toggleLayer("points"), c: () => toggleLayer("calipers"), e: () => toggleLayer("evidence"), d: otherTool, m: () => (page.marked ? page.mark(0, null) : markNext(1)), "[": () => markNext(-1), "]": () => markNext(1),
  Enter: () => page.finish(), Backspace: () => page.set(page.selection.knee, page.selection.name, null),
};

addEventListener("keydown", (event) => {
  if ($("dialog").open || event.altKey) return;
  const typing = event.target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select");
  if (event.key === "Escape") {
    if (page.marked) page.mark(0, null);
    else if (page.beside) page.compare(null);
    document.activeElement?.blur();
    return;
  }
  if (typing) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key === "z" && film) { event.preventDefault(); page.undo(); }
    return;
  }
  if (event.key === "?") { event.preventDefault(); showHelp(); return; }
  if (event.key === "/") { event.preventDefault(); $("search").focus(); return; }
  if (event.key === "n" || event.key === "p") { event.preventDefault(); COMMANDS[event.key](); return; }
  if (!film) {
    if (event.key === "Enter" && page.row && !event.target.closest("button, a")) { event.preventDefault(); goOn(); }
    if (event.key === "s" || event.key === "x") toast("This film cannot be shown, so it cannot be read. Enter and n go on.");
    return;
  }
  if (event.key === "Enter" && event.target.closest("button, a") && !event.target.closest(".scale")) return; // the button acts itself
  if (event.target.closest("#list") && event.key in ARROWS) { event.preventDefault(); if (event.key === "ArrowDown") move(1); if (event.key === "ArrowUp") move(-1); return; }
  if (/^[0-4]$/.test(event.key)) { event.preventDefault(); grade(Number(event.key)); } else if (event.key in ARROWS) { event.preventDefault(); arrow(event); } else if (event.key in COMMANDS) { event.preventDefault(); COMMANDS[event.key](); }
});

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
addEventListener("beforeunload", (event) => { if (film?.isDirty) event.preventDefault(); });

const start = async () => {
  try {
    const reader = await begin();
    const found = await getJson("/v1/worklist");
    document.title = `${found.title} – kneegrade reader`;
    $("title").textContent = found.title;
    $("mode").textContent = [found.study ? `${MODES[found.mode]} “${found.study}”` : "", found.reader || reader].filter(Boolean).join(" · ");
    document.body.dataset.mode = found.mode;
    $("export-button").hidden = found.mode === "blind";
    worklist.fill(found);
    document.body.dataset.ready = "true";
    if (worklist.shown.length) open(worklist.shown[0]);
    else $("stage-note").textContent = found.mode === "adjudicate" ? "There is no film on which the readers of this study differ." : "There are no films.";
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      const token = await askToken(hasTried() ? error.message : "Type your token. Whoever runs the service gives one to each reader.");
      if (token) { useToken(token); await start(); } else $("stage-note").textContent = error.message;
    } else $("stage-note").textContent = error.message;
  }
};

await start();
