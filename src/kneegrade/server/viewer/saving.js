// Saving as the reader sees it: what is not saved and why, signing in again, changes of two readers, signatures.

import { onEnded, post, getJson, Unreachable, useToken } from "./api.js";
import { askToken, decideConflict, question, warning } from "./dialogs.js";
import { $, toast } from "./dom.js";
import { SIDES } from "./film.js";
import * as unsaved from "./unsaved.js";

const SAVED = { untouched: "", saving: "Saving…", saved: "Saved", offline: "Not saved", ended: "Not saved", conflict: "Changed by another reader", refused: "Not saved" };
const TROUBLE = ["offline", "ended", "refused"];

export class Saving {
  /** @param {object} app `film`, `loaded` (films in memory by id), `worklist`, `refresh()`, `start()`. */
  constructor(app) {
    this.app = app;
    this.reader = null;
    this.isAsking = null;
  }

  /** Begins with the reader and page that the worklist names; from now on an ended session asks for a token. */
  begin(found) {
    this.reader = found.reader;
    unsaved.keepFor(found);
    onEnded((refused) => this.signIn(refused.message));
  }

  get dirty() { return [...this.app.loaded.values()].filter((film) => film.isDirty); }

  /** Sends what this browser kept of earlier; the number of films. What conflicts or is refused waits for its film to be opened. */
  async resend() {
    let sent = 0;
    for (const one of unsaved.all()) {
      const row = this.app.worklist.find(one.key, one.repeat);
      if (!row) continue;
      try {
        const { notes } = await post(`/v1/films/${one.key}/reviews`, { based_on: one.based_on, repeat: one.repeat, reading: one.reading });
        unsaved.drop(one);
        sent += 1;
        for (const text of notes) toast(text);
      } catch (error) {
        if (error instanceof Unreachable) return sent;
        row.unsaved = true;
      }
    }
    return sent;
  }

  /** Shows in the masthead, above the page and in the worklist what is saved. */
  show() {
    const { film, worklist } = this.app, box = $("saved"), now = film?.state ?? "untouched";
    if (box.textContent !== SAVED[now]) box.textContent = SAVED[now];
    box.className = `saved is-${now}`;
    box.dataset.revision = now === "saved" ? String(film.revision) : "";
    let isOther = false;
    this.app.loaded.forEach((one) => {
      const row = worklist.find(one.key, one.repeat), is = one.isDirty && TROUBLE.includes(one.state);
      if (row && Boolean(row.unsaved) !== is) { row.unsaved = is; isOther = true; }
    });
    if (isOther) worklist.refresh();
    this.warn();
  }

  warn() {
    const troubled = this.dirty.filter((one) => TROUBLE.includes(one.state));
    const worst = troubled.find((one) => one.state === "refused" && one === this.app.film) ?? troubled.find((one) => one.state !== "refused") ?? troubled[0];
    $("alert").hidden = !worst;
    if (!worst) { $("alert").dataset.state = ""; return; }
    const films = troubled.length === 1 ? "1 film" : `${troubled.length} films`;
    const kept = troubled.every((one) => one.isKept) ? `The changes of ${films} are kept in this browser` : "This browser cannot keep them: do not close this tab";
    const [text, label, act] = {
      offline: [`Not saved: the server does not answer. ${kept} and are sent when it answers.`, "Try now", () => this.retry()],
      ended: [`Not saved: your session has ended. ${kept} and are sent when you have signed in.`, "Sign in", () => this.signIn("Your session has ended.")],
      refused: [`Not saved: ${worst.problem}`, "Give up my change", () => worst.discard()],
    }[worst.state];
    $("alert").dataset.state = worst.state;
    if ($("alert-text").textContent !== text) $("alert-text").textContent = text;
    $("alert-act").textContent = label;
    $("alert-act").onclick = act;
  }

  retry() { this.dirty.forEach((film) => film.save()); }

  /** Asks for a token, once at a time; then everything is sent again. Another reader gets a page of their own. */
  signIn(reason) {
    this.isAsking ??= this.askAndStart(reason).finally(() => { this.isAsking = null; });
    return this.isAsking;
  }

  async askAndStart(reason) {
    let why = `${reason} Type your token, or paste the newest link of the terminal.`;
    while (true) {
      const token = await askToken(why);
      if (!token) return;
      await useToken(token);
      try {
        const { reader } = await getJson("/v1/worklist");
        if (reader !== this.reader) { location.reload(); return; }
        break;
      } catch (error) { why = error.message; }
    }
    this.retry();
    if (!this.app.film) this.app.reopen();
  }

  /** Waits until a film has nothing to save, or cannot save. */
  settled(one) {
    return new Promise((done) => {
      const look = () => {
        if (one.isDirty && !["conflict", "refused", "ended"].includes(one.state)) return;
        ["saved", "conflict"].forEach((name) => one.removeEventListener(name, look));
        done();
      };
      ["saved", "conflict"].forEach((name) => one.addEventListener(name, look));
      look();
    });
  }

  /** Asks the reader what a conflict leaves open, and goes on with the answer. */
  async resolve(one) {
    const { conflict } = one, wanted = one.reading.status;
    let { merged } = conflict;
    if (conflict.newest.status === "signed" && merged.status !== "signed") {
      const yes = await warning(`${conflict.reader} signed this film meanwhile`, "Your changes are not saved. To save them, withdraw the signature; the film must then be signed again.", "Withdraw the signature", "Keep what was signed");
      if (!yes) { one.resolve(conflict.newest); toast(`The film is as ${conflict.reader} signed it.`); return; }
      one.resolve({ ...conflict.newest, status: "draft" });
      await this.settled(one);
      if (one.isDirty) return;
    }
    if (conflict.differences.length) {
      merged = await decideConflict(conflict, one.reading.knees.map((knee) => SIDES[knee.side]));
      if (!merged) {
        merged = structuredClone(conflict.newest);
        toast(`You did not choose: the film now has the values of ${conflict.reader}. Press u to bring back yours.`);
      }
    } else if (wanted !== "draft" && merged.status === "draft") toast(`Merged with the changes of ${conflict.reader}. Look at them, then finish or sign the film.`);
    else toast(`Merged with the changes of ${conflict.reader}.`);
    if (conflict.newest.status === "signed") one.set({ ...merged, status: "draft" });
    else one.resolve(merged);
    this.app.refresh();
  }

  /** Whether the reader wants to sign. */
  wantsToSign() {
    return question("Sign this reading?", `The signature names you (${this.reader}) as the reader. In a hospital it makes a revision of the report. A signed film cannot be changed unless its signature is withdrawn.`, "Sign");
  }

  /** Asks, and withdraws the signature of a film. */
  async withdraw(film) {
    const { signed } = film;
    const yes = await warning("Withdraw this signature?", `${signed.reader} signed revision ${signed.revision}. The withdrawal is recorded under your name (${this.reader}). Reports that were sent stay as they are until the film is signed again.`, "Withdraw the signature", "Keep it");
    if (!yes) return;
    film.withdraw();
    await this.settled(film);
  }
}
