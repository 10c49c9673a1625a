// The reading of the open film: grades, sides, joint space, note, status.

import { $, h } from "./dom.js";
import { post } from "./api.js";
import { SIDES } from "./film.js";

export const GRADES = [
  ["kl", "KL", "Kellgren–Lawrence", 5], ["jsn_medial", "JSN M", "Joint space narrowing, medial", 4], ["jsn_lateral", "JSN L", "Joint space narrowing, lateral", 4],
  ["osteophyte_femur_medial", "FM", "Osteophyte, femur medial", 4], ["osteophyte_femur_lateral", "FL", "Osteophyte, femur lateral", 4],
  ["osteophyte_tibia_medial", "TM", "Osteophyte, tibia medial", 4], ["osteophyte_tibia_lateral", "TL", "Osteophyte, tibia lateral", 4],
];
const MEANING = { kl: ["none", "doubtful", "minimal", "moderate", "severe"], other: ["normal", "mild", "moderate", "severe"] };
const REASONS = ["not a knee, or another view", "rotated or badly positioned", "badly exposed or blurred", "metal or joint replacement", "joint cut off"];

const percent = (p) => (p > 0 && p < 0.005 ? "<1" : p >= 0.995 && p < 1 ? ">99" : (100 * p).toFixed(0));
const number = (value, digits) => value.toFixed(digits).replace("-", "−");
const withError = (value, error, digits, unit) => `${number(value, digits)} ± ${error < 0.5 * 10 ** -digits ? `<${number(10 ** -digits, digits)}` : number(error, digits)} ${unit}`;

/** A width with its error. Where the outlines meet, the width is 0 and the samples of the error are 0, too: no error is known. */
export const widthText = (width) => {
  if (width.fraction === 0) return "0 (outlines meet)";
  return width.mm === null ? withError(100 * width.fraction, 100 * width.fraction_error, 1, "%") : withError(width.mm, width.mm_error, 2, "mm");
};

export class Panel {
  /** @param {object} page shared state: `selection`, `select(knee, name)`, `set(knee, name, grade)`, `finish()`, `sign()`. */
  constructor(page) {
    this.page = page;
    this.element = $("panel");
    this.answers = new Map();
  }

  bind(film) {
    this.film = film;
    this.coherence = film.reading.knees.map(() => []);
    this.build();
    this.askCoherence();
  }

  build() {
    const { film } = this;
    const parts = [this.heading(), h("div", { id: "standing", role: "status", hidden: true })];
    if (film.reading.knees.length) parts.push(this.table(), h("p", { className: "sr", id: "cursor-text", role: "status" }), h("div", { id: "rules", className: "rules", "aria-live": "polite" }), this.knees(), this.evidence());
    else parts.push(this.addKnees());
    if (film.readings.length) parts.push(this.readers());
    parts.push(this.noteField(), this.notes(), this.others(), this.buttons());
    this.element.replaceChildren(...parts.filter(Boolean));
    this.update();
  }

  heading() {
    const { film } = this;
    return h("div", { className: "panel-head" }, h("h2", { id: "film-name" }, film.name || this.page.row?.name || "Film"), h("p", { id: "film-status", className: "soft" }));
  }

  notes() {
    const { film } = this;
    const found = [...(film.reason ? [film.reason] : []), ...film.warnings];
    if (!found.length) return null;
    return h("ul", { className: "notes" }, ...found.map((one) => h("li", {}, one.message)));
  }

  table() {
    const { film } = this;
    const knees = film.reading.knees.map((knee, i) => [knee, i]);
    const head = h("tr", {}, h("td", {}), ...knees.map(([knee, i]) => h("th", { scope: "col", id: `knee-${i}` }, SIDES[knee.side])));
    const rows = GRADES.map(([name, short, label, classes]) => h("tr", { dataset: { name } },
      h("th", { scope: "row", title: label }, h("abbr", { title: label }, short)), ...knees.map(([, i]) => this.cell(i, name, label, classes))));
    return h("table", { className: "grades" }, h("thead", {}, head), h("tbody", {}, ...rows));
  }

  cell(i, name, label, classes) {
    const { film, page } = this, machine = film.machine(i)?.grades?.[name];
    const buttons = Array.from({ length: classes }, (_, grade) => {
      const word = (MEANING[name] ?? MEANING.other)[grade];
      const share = machine ? `, probability ${percent(machine.probabilities[grade])} %` : "";
      const bar = machine ? h("i", { className: "bar", "aria-hidden": "true" }) : null;
      if (bar) bar.style.height = `${Math.round(14 * machine.probabilities[grade])}px`;
      return h("button", { type: "button", role: "radio", className: machine?.set?.includes(grade) ? "in-set" : "", title: `${label} ${grade}, ${word}${share}`, "aria-label": `${grade}, ${word}${share}`,
        dataset: { knee: String(i), name, grade: String(grade) }, tabIndex: -1,
        onclick: () => { page.select(i, name); page.set(i, name, grade); }, onfocus: () => page.select(i, name) }, bar, h("b", {}, String(grade)));
    });
    return h("td", {}, h("div", { className: "scale", role: "radiogroup", "aria-label": `${label}, ${SIDES[film.reading.knees[i].side]}`, dataset: { knee: String(i), name } }, ...buttons));
  }

  knees() {
    const { film } = this;
    return h("div", { className: "knees" }, ...film.reading.knees.map((knee, i) => h("section", { className: "knee", "aria-label": SIDES[knee.side], dataset: { knee: String(i) } },
      h("div", { className: "knee-line" },
        h("label", {}, "Side ", h("select", { className: "side", disabled: film.closed, dataset: { knee: String(i) }, onchange: (event) => film.change((next) => { next.knees[i].side = event.target.value; }) },
          ...Object.entries({ R: "right", L: "left", unknown: "unknown" }).map(([value, text]) => h("option", { value }, text)))),
        h("label", { className: "check" }, h("input", { type: "checkbox", className: "not-gradable", disabled: film.closed, dataset: { knee: String(i) }, onchange: () => this.page.toggleGradable(i) }), "Not gradable")),
      h("input", { className: "reason", list: "reasons", maxLength: 200, placeholder: "Reason", "aria-label": `Reason why the ${SIDES[knee.side].toLowerCase()} is not gradable`, dataset: { knee: String(i) },
        disabled: film.closed, onchange: (event) => film.change((next) => { next.knees[i].reason = event.target.value; }) }),
      film.hidden ? null : h("dl", { className: "space" }, h("dt", {}, "Medial"), h("dd", { className: "medial" }), h("dt", {}, "Lateral"), h("dd", { className: "lateral" }), h("dt", {}, "Angle"), h("dd", { className: "angle" })),
      film.hidden ? null : h("p", { className: "moved soft" }, h("span", {}), " ", h("button", { type: "button", className: "link", disabled: film.closed, onclick: () => film.resetPoints(i) }, "Reset landmarks")),
      h("ul", { className: "findings" }, ...this.findings(i).map((text) => h("li", {}, text))))),
    h("datalist", { id: "reasons" }, ...REASONS.map((value) => h("option", { value }))));
  }

  findings(i) {
    const knee = this.film.machine(i);
    if (!knee) return [];
    return [...(knee.reason ? [knee.reason] : []), ...(knee.quality?.findings ?? [])].map((one) => one.message);
  }

  addKnees() {
    const add = (side) => () => this.film.change((next) => { next.knees.push({ side, gradable: true, reason: "", grades: {}, landmarks_px: null }); });
    return h("div", { className: "add" }, h("p", {}, "No knee was found on this film."),
      h("button", { type: "button", onclick: add("R") }, "Grade a right knee"), " ", h("button", { type: "button", onclick: add("L") }, "Grade a left knee"));
  }

  evidence() {
    if (this.film.hidden) return null;
    return h("section", { className: "evidence", "aria-label": "Evidence" }, h("p", { id: "evidence-title", className: "soft" }),
      h("div", { id: "evidence-ramp", className: "ramp", "aria-hidden": "true" }), h("p", { id: "evidence-ends", className: "ends soft" }, h("span", {}, "against"), h("span", {}, "in favour")), h("p", { id: "evidence-terms", className: "soft" }));
  }

  readers() {
    const { film } = this;
    return h("section", { className: "readers" }, h("h3", {}, "What the readers read"), h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Reader"), h("th", { scope: "col" }, "Knee"), ...GRADES.map(([, short, label]) => h("th", { scope: "col" }, h("abbr", { title: label }, short))))),
      h("tbody", {}, ...film.readings.flatMap(({ reader, reading }) => reading.knees.map((knee) => h("tr", {}, h("th", { scope: "row" }, reader), h("td", {}, knee.side === "unknown" ? "?" : knee.side),
        ...(knee.gradable ? GRADES.map(([name]) => h("td", { className: film.readings.some((one) => one.reading.knees.some((k) => k.side === knee.side && k.grades[name] !== knee.grades[name])) ? "differs" : "" }, String(knee.grades[name] ?? "–")))
          : [h("td", { colSpan: GRADES.length }, `not gradable: ${knee.reason}`)])))))));
  }

  noteField() {
    const { film } = this;
    return h("label", { className: "note" }, "Note", h("textarea", { id: "note", rows: 2, maxLength: 2000, disabled: film.closed, placeholder: "No names or other patient data",
      onchange: (event) => film.change((next) => { next.note = event.target.value; }) }));
  }

  buttons() {
    const { film, page } = this;
    if (film.locked) return h("p", { className: "soft" }, "This reading is finished and cannot be changed.");
    if (film.isSigned) return h("div", { className: "actions" }, h("button", { type: "button", id: "finish", className: "primary", title: "Enter", onclick: () => page.finish() }, "Next film"));
    const label = film.mode === "blind" ? "Finish" : film.mode === "adjudicate" ? "Decide" : "Read";
    return h("div", { className: "actions" },
      h("button", { type: "button", id: "finish", className: "primary", title: "Enter", onclick: () => page.finish() }, `${label}, next film`),
      film.mode === "shared" ? h("button", { type: "button", id: "sign", title: "s", onclick: () => page.sign() }, "Sign") : null,
      h("button", { type: "button", id: "undo", title: "u", onclick: () => page.undo() }, "Undo"));
  }

  others() {
    const { film, page } = this;
    if (!film.same_person.length) return null;
    return h("section", { className: "others" }, h("h3", {}, "Other films of this person"), h("ul", {}, ...film.same_person.map((other) => h("li", {},
      h("button", { type: "button", className: "link", onclick: () => page.compare(other) }, other.visit ? `${other.name} (visit ${other.visit})` : other.name)))));
  }

  /** Shows the reading in the controls that `build` made. */
  update() {
    const { film, page, element } = this;
    const sides = film.reading.knees.map((knee) => knee.side).join();
    if (this.built !== `${film.key}/${film.repeat}/${sides}/${film.closed}`) {
      this.built = `${film.key}/${film.repeat}/${sides}/${film.closed}`;
      this.coherence = film.reading.knees.map((_, i) => this.coherence[i] ?? []);
      this.build();
      return;
    }
    element.querySelectorAll(".scale").forEach((scale) => {
      const i = Number(scale.dataset.knee), { name } = scale.dataset, knee = film.reading.knees[i];
      const own = knee.gradable ? knee.grades[name] : undefined, machine = film.machine(i)?.grades?.[name]?.grade;
      const isCursor = page.selection.knee === i && page.selection.name === name;
      scale.classList.toggle("is-cursor", isCursor);
      scale.classList.toggle("is-changed", machine !== undefined && own !== machine);
      [...scale.children].forEach((button, grade) => {
        button.setAttribute("aria-checked", String(own === grade));
        button.tabIndex = isCursor && (own === grade || (own === undefined && grade === 0)) ? 0 : -1;
        button.classList.toggle("is-machine", machine === grade);
        button.disabled = film.closed;
      });
    });
    element.querySelectorAll(".knee").forEach((section, i) => this.updateKnee(section, i));
    const note = $("note");
    if (note && document.activeElement !== note) note.value = film.reading.note;
    if ($("undo")) $("undo").disabled = !film.past.length;
    const words = { draft: film.revision ? "begun" : "to read", read: "read", signed: "signed" };
    $("film-status").textContent = [words[film.reading.status], film.reader && film.revision ? `by ${film.reader}, revision ${film.revision}` : ""].filter(Boolean).join(" ");
    this.updateStanding();
    this.updateEvidence();
    this.updateRules();
  }

  /** Says that the film is signed, or that a signature was withdrawn. */
  updateStanding() {
    const { film, page } = this, box = $("standing"), { signed } = film;
    const isSigned = film.saved.status === "signed";
    box.hidden = !signed || film.mode !== "shared";
    const shown = signed ? `${isSigned} ${signed.revision} ${film.outcome ?? ""}` : "";
    if (box.hidden || box.dataset.shown === shown) return;
    box.dataset.shown = shown;
    box.className = `standing ${isSigned ? "is-signed" : "is-withdrawn"}`;
    const when = new Date(signed.time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    box.replaceChildren(...(isSigned
      ? [h("p", {}, h("b", {}, `Signed by ${signed.reader}`), `, revision ${signed.revision}, ${when}. It cannot be changed.${film.outcome ? ` ${film.outcome}` : ""}`), h("button", { type: "button", id: "withdraw", title: "s", onclick: () => page.withdraw() }, "Withdraw signature…")]
      : [h("p", {}, h("b", {}, "Signature withdrawn. "), `${signed.reader} had signed revision ${signed.revision}, ${when}. Reports that were sent stay as they are until the film is signed again.`)]));
  }

  updateKnee(section, i) {
    const { film } = this, knee = film.reading.knees[i];
    section.querySelector(".side").value = knee.side;
    section.querySelector(".not-gradable").checked = !knee.gradable;
    const reason = section.querySelector(".reason");
    reason.hidden = knee.gradable;
    if (document.activeElement !== reason) reason.value = knee.reason;
    if (!section.querySelector(".space")) return;
    this.updateSpace(i);
    const moved = section.querySelector(".moved"), detected = film.machine(i)?.landmarks_px, own = knee.landmarks_px;
    moved.hidden = !own;
    if (own) moved.firstChild.textContent = detected ? `${own.filter(([x, y], n) => !detected[n] || Math.hypot(x - detected[n][0], y - detected[n][1]) > 0.5).length} landmarks moved.` : "Landmarks moved.";
  }

  /** Shows the joint space of knee i. */
  updateSpace(i) {
    const measured = this.film.measured[i], space = this.element.querySelector(`.knee[data-knee="${i}"] .space`);
    if (!space) return;
    space.hidden = !measured;
    if (!measured) return;
    space.querySelector(".medial").textContent = widthText(measured.medial);
    space.querySelector(".lateral").textContent = widthText(measured.lateral);
    space.querySelector(".angle").textContent = `${number(measured.convergence_angle_deg.value, 1)} ± ${number(measured.convergence_angle_deg.error, 1)}°`;
  }

  updateEvidence() {
    const { film, page } = this, title = $("evidence-title");
    if (!title) return;
    const { knee, name } = page.selection, [, , label] = GRADES.find(([one]) => one === name);
    const grade = film.reading.knees[knee]?.grades[name], own = film.evidence?.[knee]?.[name];
    $("evidence-ramp").hidden = $("evidence-ends").hidden = !own || grade === undefined;
    $("evidence-terms").textContent = "";
    if (film.isEvidenceOld) $("evidence-ramp").hidden = $("evidence-ends").hidden = true;
    if (film.isEvidenceOld) title.textContent = "Computing the evidence at the moved landmarks…";
    else if (film.evidenceProblem) title.textContent = film.evidenceProblem;
    else if (!own || grade === undefined) title.textContent = film.evidence ? "" : "Computing the evidence…";
    else {
      title.textContent = `Evidence for ${label} ${grade}, ${SIDES[film.reading.knees[knee].side].toLowerCase()}`;
      const sum = (from, to) => own.points.slice(from, to).reduce((total, row) => total + (row?.[grade] ?? 0), 0);
      const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
      const terms = [["femur", sum(0, 37)], ["tibia", sum(37, 74)], ["region", own.region[grade]], ["constant", own.constant[grade]]];
      $("evidence-terms").textContent = `${terms.map(([word, value]) => `${word} ${signed(value)}`).join(", ")} = logit ${signed(terms.reduce((total, [, value]) => total + value, 0))}`;
    }
  }

  /** Asks how often the grades of each knee occur together, and shows the answer; not in a blind reading. */
  async askCoherence() {
    const { film } = this;
    if (film.mode === "blind") return;
    await Promise.all(film.reading.knees.map(async (knee, i) => {
      const grades = knee.gradable ? knee.grades : {}, key = JSON.stringify(grades);
      if (!this.answers.has(key)) this.answers.set(key, Object.keys(grades).length ? post("/v1/coherence", { grades }).catch(() => []) : Promise.resolve([]));
      const answer = await this.answers.get(key);
      if (this.film === film && JSON.stringify(film.reading.knees[i]?.gradable ? film.reading.knees[i].grades : {}) === key) this.coherence[i] = answer;
    }));
    if (this.film === film) this.updateRules();
  }

  updateRules() {
    const box = $("rules");
    if (!box) return;
    const lines = this.coherence.flatMap((counts, i) => counts.filter((one) => one.code !== "all_grades" || one.knees === 0).map((one) => [SIDES[this.film.reading.knees[i]?.side] ?? "", one]));
    const text = lines.map(([side, one]) => `${side}: ${one.sentence}`).join("\n");
    if (box.dataset.text === text && box.childElementCount === lines.length) return;
    box.dataset.text = text;
    box.replaceChildren(...lines.map(([side, one]) => h("p", { className: one.hard || one.knees === 0 ? "rule hard" : "rule" }, h("b", {}, `${side}: `), one.sentence)));
  }
}
