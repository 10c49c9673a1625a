// A film that is open: results, reading, saving, undo. Every change is saved at once; the server decides about conflicts.

import * as unsaved from "./unsaved.js";
import { ask, getJson, post, Refused } from "./api.js";
import { pyramid } from "./screen.js";
import { Follower, loadShape } from "./shape.js";

export const SIDES = { R: "Right knee", L: "Left knee", unknown: "Knee, side unknown" };
const RETRY_MS = 1500;
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const marks = (reading) => JSON.stringify(reading.knees.map((knee) => knee.landmarks_px));

export class Film extends EventTarget {
  constructor(data, levels) {
    super();
    Object.assign(this, data);
    this.levels = levels;
    this.width = levels[0].width;
    this.height = levels[0].height;
    this.grey = { low: 0, high: 65535, inverted: false };
    this.past = [];
    this.future = [];
    this.saved = structuredClone(this.reading); // what the server has
    this.state = this.revision ? "saved" : "untouched";
    this.evidence = null;
    this.measured = (this.knees ?? []).map(() => null);
    this.followers = new Map();
    this.busy = false;
  }

  /** The film with its pixels. */
  static async load(key, repeat) {
    const query = repeat ? `?repeat=${repeat}` : "";
    const [data, answer] = await Promise.all([getJson(`/v1/films/${key}/reading${query}`), ask(`/v1/films/${key}/pixels`)]);
    const width = Number(answer.headers.get("X-Columns")), height = Number(answer.headers.get("X-Rows"));
    return new Film(data, pyramid(new Uint16Array(await answer.arrayBuffer()), width, height));
  }

  /** Goes on with a change that this browser kept because the server did not answer. */
  restore() {
    const kept = unsaved.kept(this.key, this.repeat);
    if (!kept) return;
    if (same(kept.reading, this.saved)) { unsaved.drop(this); return; }
    this.revision = kept.based_on;
    this.set(kept.reading);
  }

  /** Gives up the changes that are not saved. */
  discard() {
    Object.assign(this, { past: [], future: [] });
    this.followers.clear();
    this.set(this.saved);
    this.remeasure();
  }

  say(name) { this.dispatchEvent(new Event(name)); }

  /** What kneegrade found on knee i, or null where it is hidden or there is none. */
  machine(i) { return this.knees?.[i] ?? null; }

  /** The outline of knee i: the reader's, else the detected one; null without one. */
  points(i) {
    const own = this.reading.knees[i]?.landmarks_px ?? this.machine(i)?.landmarks_px ?? null;
    return own?.every(Boolean) ? own : null;
  }

  /** Changes the reading: `edit` gets a copy that it changes. */
  change(edit) {
    if (this.closed) { this.say("closed"); return; }
    const before = this.reading, next = structuredClone(before);
    edit(next);
    if (same(next, before)) return;
    if (next.status !== "draft" && next.status === before.status) next.status = "draft"; // a finished reading that changes is open again
    this.past.push(before);
    this.future = [];
    this.set(next);
  }

  set(reading) {
    this.reading = reading;
    this.state = "saving";
    if (this.isDirty) unsaved.keep(this);
    this.say("change");
    this.save();
  }

  /** Opens a signed reading again; a revision of its own, without a way back by undo. */
  withdraw() {
    Object.assign(this, { past: [], future: [] });
    this.set({ ...this.reading, status: "draft" });
  }

  undo() {
    if (!this.past.length || this.closed) return false;
    this.future.push(this.reading);
    this.followers.clear();
    this.set(this.past.pop());
    this.remeasure();
    return true;
  }

  redo() {
    if (!this.future.length || this.closed) return false;
    this.past.push(this.reading);
    this.followers.clear();
    this.set(this.future.pop());
    this.remeasure();
    return true;
  }

  get isDirty() { return !same(this.reading, this.saved); }

  /** Whether the reading is signed, or is being signed. */
  get isSigned() { return this.saved.status === "signed" || (this.reading.status === "signed" && this.state !== "refused"); }

  /** Whether the reading cannot be changed: it is finished in a study, or signed. */
  get closed() { return this.locked || this.isSigned; }

  /** Sends the reading until the server has the newest one. */
  async save() {
    this.wake?.(); // tries again at once
    if (this.busy) return;
    this.busy = true;
    while (this.isDirty) {
      const sent = this.reading;
      try {
        const answer = await post(`/v1/films/${this.key}/reviews`, { based_on: this.revision, repeat: this.repeat, reading: sent });
        this.revision = answer.revision;
        this.reader = answer.reader;
        this.saved = sent;
        this.notes = answer.notes;
        if (sent.status === "signed") Object.assign(this, { signed: { revision: answer.revision, reader: answer.reader, time: answer.time }, past: [], future: [] });
        this.state = this.isDirty ? "saving" : "saved";
        if (this.isDirty) unsaved.keep(this); // based on the new revision
        else unsaved.drop(this);
        this.say("saved");
      } catch (error) {
        if (error instanceof Refused && error.status === 409) {
          this.state = "conflict";
          this.busy = false;
          this.conflict = error.body;
          this.say("conflict");
          return;
        }
        if (error instanceof Refused && error.status < 500) {
          this.problem = error.message;
          this.state = error.status === 401 ? "ended" : "refused";
          this.busy = false;
          this.say("saved");
          return;
        }
        this.problem = error.message;
        this.state = "offline";
        this.say("saved");
        await new Promise((done) => { this.wake = done; setTimeout(done, RETRY_MS); });
      }
    }
    this.busy = false;
    if (!["saved", "untouched"].includes(this.state)) { // undone before it was saved
      this.state = this.revision ? "saved" : "untouched";
      unsaved.drop(this);
      this.say("saved");
    }
    if (this.locked === false && this.mode === "blind" && this.reading.status !== "draft") this.say("finished");
  }

  /** Goes on from the newest reading of the other reader. */
  resolve(merged) {
    const { revision, reader, time, newest } = this.conflict;
    Object.assign(this, { revision, reader, saved: newest, notes: [] });
    if (newest.status === "signed") this.signed = { revision, reader, time };
    this.past.push(this.reading);
    this.followers.clear();
    this.set(merged);
    this.remeasure();
  }

  async startMoving(i, index) {
    await loadShape();
    if (!this.followers.has(i)) this.followers.set(i, new Follower(this.points(i), this.places[i].mm_to_px));
    this.followers.get(i).grab(index);
    this.draft = { knee: i, before: this.reading };
  }

  /** Moves a landmark while it is dragged; nothing is saved yet. */
  move(i, index, place) {
    const points = this.followers.get(i).moved(index, place);
    const next = structuredClone({ ...this.reading, knees: this.reading.knees.map((knee) => ({ ...knee, landmarks_px: null })) });
    next.knees.forEach((knee, n) => { knee.landmarks_px = n === i ? points : this.reading.knees[n].landmarks_px; });
    this.reading = next;
    this.moving = i;
    this.say("moving");
    this.measure(i);
  }

  endMoving() {
    this.moving = null;
    const before = this.draft.before, now = this.reading;
    if (now === before) return;
    this.reading = before;
    this.change((next) => {
      next.knees[this.draft.knee].landmarks_px = now.knees[this.draft.knee].landmarks_px.map(([x, y]) => [Math.round(x * 100) / 100, Math.round(y * 100) / 100]);
    });
    this.measure(this.draft.knee);
  }

  resetPoints(i) {
    this.followers.delete(i);
    this.change((next) => { next.knees[i].landmarks_px = null; });
    this.measure(i);
  }

  /** New widths of knee i; of several moves in between only the last is measured. */
  async measure(i) {
    this.wanted ??= new Map();
    if (this.wanted.has(i)) { this.wanted.set(i, true); return; }
    this.wanted.set(i, true);
    while (this.wanted.get(i)) {
      this.wanted.set(i, false);
      const points = this.points(i);
      if (!points || this.hidden) { this.measured[i] = null; break; }
      try {
        const asked = performance.now();
        this.measured[i] = await post(`/v1/films/${this.key}/measure`, { knee: i, landmarks_px: points });
        this.measureMs = performance.now() - asked;
      } catch { this.measured[i] = null; }
      this.say("measured");
    }
    this.wanted.delete(i);
  }

  remeasure() { this.reading.knees.forEach((_, i) => this.measure(i)); }

  /** Whether the evidence is that of other landmarks than the reading's. */
  get isEvidenceOld() { return this.evidence !== null && this.evidenceOf !== marks(this.reading); }

  /** Asks for the evidence at the saved landmarks, again if they have changed. */
  async loadEvidence() {
    const of = marks(this.saved);
    if (this.hidden || this.isAsking || (this.evidence && this.evidenceOf === of)) return;
    this.isAsking = true;
    try {
      const found = await getJson(`/v1/films/${this.key}/evidence${this.repeat ? `?repeat=${this.repeat}` : ""}`);
      Object.assign(this, { evidence: found, evidenceProblem: null });
    } catch (error) { Object.assign(this, { evidence: [], evidenceProblem: error.message }); }
    Object.assign(this, { evidenceOf: of, isAsking: false });
    this.say("evidence");
    this.loadEvidence();
  }
}
