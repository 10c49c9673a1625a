// The keyboard of the page; dialogs.js lists the keys.

import { $, toast } from "./dom.js";
import { showHelp } from "./dialogs.js";
import { GRADES } from "./panel.js";

const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/** @param {object} app the open `film`, `page`, `views`, and what the keys do. */
export const listenForKeys = (app) => {
  const { page, views } = app;

  const narrow = (factor, shift = 0) => {
    const { low, high } = app.film.grey, centre = (low + high) / 2 + shift * (high - low), width = Math.max(400, (high - low) * factor);
    Object.assign(app.film.grey, { low: centre - width / 2, high: centre + width / 2 });
    views.forEach((view) => view.draw());
  };

  const step = (dKnee, dGrade) => {
    const { knee, name } = page.selection, at = GRADES.findIndex(([one]) => one === name), knees = app.film.reading.knees.length;
    if (!knees) return;
    page.select(Math.min(knees - 1, Math.max(0, knee + dKnee)), GRADES[Math.min(GRADES.length - 1, Math.max(0, at + dGrade))][0]);
  };

  const grade = (value) => {
    const { knee, name } = page.selection;
    if (!app.film.reading.knees.length) return;
    if (app.film.closed) return app.film.say("closed");
    if (value >= GRADES.find(([one]) => one === name)[3]) return toast("This grade ends at 3.");
    page.set(knee, name, value);
    step(0, 1);
  };

  const nudge = async (dx, dy) => {
    const { knee, index } = page.marked, [x, y] = app.film.points(knee)[index];
    await app.film.startMoving(knee, index);
    app.film.move(knee, index, [x + dx, y + dy]);
    app.film.endMoving();
  };

  const markNext = (by) => {
    const knee = page.marked?.knee ?? page.selection.knee;
    if (app.film.closed) return app.film.say("closed");
    if (!app.film.points(knee)) return toast("This knee has no landmarks.");
    page.mark(knee, ((page.marked?.index ?? 55 - by) + by + 74) % 74);
  };

  const nextSide = () => app.film.change((next) => { const knee = next.knees[page.selection.knee]; if (knee) knee.side = { R: "L", L: "unknown", unknown: "R" }[knee.side]; });

  const arrow = (event) => {
    const [dx, dy] = ARROWS[event.key];
    if (page.marked) nudge(dx * (event.shiftKey ? 5 : 1), dy * (event.shiftKey ? 5 : 1));
    else if (event.shiftKey) app.active().pan(-40 * dx, -40 * dy);
    else step(dx, dy);
  };

  const COMMANDS = {
    n: () => app.move(1), p: () => app.move(-1), s: () => page.sign(), u: () => page.undo(), y: () => app.film.redo() || toast("Nothing to redo."), x: () => app.film.reading.knees.length && page.toggleGradable(page.selection.knee), k: nextSide,
    t: () => $("note")?.focus(), v: app.otherLayout, f: app.resetView, i: app.invert, w: () => narrow(0.8), W: () => narrow(1.25), b: () => narrow(1, 0.06), B: () => narrow(1, -0.06), "+": () => app.active().zoom(1.25), "=": () => app.active().zoom(1.25), "-": () => app.active().zoom(0.8),
    o: () => app.toggleLayer("outlines"), l: () => app.toggleLayer("points"), c: () => app.toggleLayer("calipers"), e: () => app.toggleLayer("evidence"), d: app.otherTool, m: () => (page.marked ? page.mark(0, null) : markNext(1)), "[": () => markNext(-1), "]": () => markNext(1),
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
      if (event.key === "z" && app.film) { event.preventDefault(); page.undo(); }
      return;
    }
    if (event.key === "?") { event.preventDefault(); showHelp(); return; }
    if (event.key === "/") { event.preventDefault(); $("search").focus(); return; }
    if (event.key === "n" || event.key === "p") { event.preventDefault(); COMMANDS[event.key](); return; }
    if (!app.film) {
      if (event.key === "Enter" && page.row && !event.target.closest("button, a")) { event.preventDefault(); app.goOn(); }
      if (event.key === "s" || event.key === "x") toast("This film cannot be shown, so it cannot be read. Enter and n go on.");
      return;
    }
    if (event.key === "Enter" && event.target.closest("button, a") && !event.target.closest(".scale")) return; // the button acts itself
    if (event.target.closest("#list") && event.key in ARROWS) { event.preventDefault(); if (event.key === "ArrowDown") app.move(1); if (event.key === "ArrowUp") app.move(-1); return; }
    if (/^[0-4]$/.test(event.key)) { event.preventDefault(); grade(Number(event.key)); } else if (event.key in ARROWS) { event.preventDefault(); arrow(event); } else if (event.key in COMMANDS) { event.preventDefault(); COMMANDS[event.key](); }
  });
};
