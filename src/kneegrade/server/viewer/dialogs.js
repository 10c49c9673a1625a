// Dialogs: keyboard help, conflict of two readers, questions.

import { $, h } from "./dom.js";
import { GRADES } from "./panel.js";

export const KEYS = [
  ["0 – 4", "set the selected grade"], ["↑ ↓ ← →", "select grade and knee"], ["Backspace", "clear the selected grade"], ["Enter", "read; next film that is to be read"], ["n  p", "next, previous film"],
  ["s", "sign, or withdraw the signature"], ["u  y", "undo, redo"], ["x", "knee not gradable"], ["k", "change the side of the knee"], ["t", "write a note"], ["v", "whole film or both knees"], ["f", "fit; reset the window"],
  ["i", "invert"], ["w  W", "narrower, wider window"], ["b  B", "darker, brighter"], ["+  −", "zoom"], ["Shift ↑ ↓ ← →", "pan"], ["o  l  c  e", "outlines, landmarks, calipers, evidence"],
  ["m", "move landmarks by keyboard: [ ] choose one, arrows move it, Esc ends"], ["d", "drag pans instead of changing the window"], ["/", "search films"], ["?", "this help"],
];

const show = (title, body, buttons) => new Promise((done) => {
  const dialog = $("dialog");
  const close = (value) => { dialog.onclose = null; dialog.close(); done(value); };
  dialog.replaceChildren(h("h2", { id: "dialog-title" }, title), ...body,
    h("div", { className: "actions" }, ...buttons.map(([label, value, primary]) => h("button", { type: "button", className: primary ? "primary" : "", autofocus: primary, onclick: () => close(typeof value === "function" ? value() : value) }, label))));
  dialog.onclose = () => { if (!dialog.open) done(null); }; // the event of the dialog before may come after this one is open
  dialog.showModal();
});

export const showHelp = () => show("Keyboard and mouse", [
  h("dl", { className: "keys" }, ...KEYS.flatMap(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])),
  h("p", { className: "soft" }, "Drag: window (across: contrast, down: brightness). Right or Shift drag: pan. Wheel or two fingers: zoom. Double click: fit. Drag a landmark to correct the outline; the widths are measured anew."),
], [["Close", null, true]]);

export const question = (title, text, yes) => show(title, [h("p", {}, text)], [["Cancel", false], [yes, true, true]]);

/** A question whose answer by Enter or Escape is no. */
export const warning = (title, text, yes, no) => show(title, [h("p", {}, text)], [[yes, true], [no, false, true]]);

export const askToken = (reason) => {
  const field = h("input", { type: "password", id: "token", autocomplete: "off", autofocus: true, "aria-label": "Token or link",
    onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); $("dialog").querySelector("button.primary").click(); } } });
  return show("Sign in", [h("p", {}, reason), field], [["Sign in", () => field.value, true]]);
};

const FIELDS = { side: "Side", gradable: "Gradable", landmarks_px: "Landmarks", note: "Note" };
const text = (field, value) => {
  if (value === null || value === undefined || value === "") return "–";
  if (field === "landmarks_px") return "moved";
  if (field === "gradable") return value[0] ? "gradable" : `not gradable: ${value[1]}`;
  return String(value);
};

/** The reading after the reader decided about each field that both changed; null if it was left. */
export const decideConflict = (conflict, sides) => {
  const chosen = conflict.differences.map(() => "mine");
  const rows = conflict.differences.map((one, i) => {
    const label = GRADES.find(([name]) => name === one.field)?.[2] ?? FIELDS[one.field];
    const option = (who, value) => h("label", { className: "check" }, h("input", { type: "radio", name: `difference-${i}`, value: who, checked: who === "mine", onchange: () => { chosen[i] = who; } }), text(one.field, value));
    return h("tr", {}, h("th", { scope: "row" }, one.knee === null ? label : `${sides[one.knee] ?? ""}: ${label}`), h("td", {}, option("mine", one.mine)), h("td", {}, option("theirs", one.theirs)));
  });
  const merged = () => {
    const next = structuredClone(conflict.merged);
    conflict.differences.forEach((one, i) => {
      if (chosen[i] !== "mine") return;
      const target = one.knee === null ? next : next.knees[one.knee];
      if (one.field === "gradable") [target.gradable, target.reason] = one.mine;
      else if (one.knee !== null && !(one.field in FIELDS)) {
        if (one.mine === null) delete target.grades[one.field];
        else target.grades[one.field] = one.mine;
      } else target[one.field] = one.mine;
    });
    return next;
  };
  return show(`${conflict.reader} changed this film meanwhile`, [
    h("p", {}, "Changes that do not touch each other were merged. Choose a value where both of you changed the same:"),
    h("table", { className: "conflict" }, h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, "Mine"), h("th", { scope: "col" }, conflict.reader))), h("tbody", {}, ...rows)),
  ], [["Keep theirs", () => structuredClone(conflict.newest)], ["Save merged", merged, true]]);
};
