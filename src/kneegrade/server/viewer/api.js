// Requests to the server. The token of the link is exchanged once; the session lives in this tab.

export class Refused extends Error {
  constructor(status, body) {
    super(body?.detail && typeof body.detail === "string" ? body.detail : `The server answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

export class Unreachable extends Error {
  constructor() { super("The server does not answer."); }
}

const KEY = "kneegrade-session";
const SERVICE_TOKEN = "kg_"; // begins a token of `kneegrade serve`; others are those of links, which work once
let session = null;
let isTried = false;

/** The reader's name; exchanges the one-time token in the address, which is then removed from it. */
export const begin = async () => {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  session = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  if (token) {
    isTried = true;
    history.replaceState(null, "", location.pathname + location.search);
    const answer = await exchange(token);
    if (answer.ok) {
      session = await answer.json();
      sessionStorage.setItem(KEY, JSON.stringify(session));
    } else if (!session) throw new Refused(answer.status, await answer.json().catch(() => null));
  }
  return session?.reader ?? null;
};

/** Whether this tab has tried a token: a typed one, or that of a link. */
export const hasTried = () => isTried || Boolean(session?.token);

let ended = () => {};

/** Calls back when the server no longer knows the session. */
export const onEnded = (listener) => { ended = listener; };

const exchange = (token) => fetch("/v1/session", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });

/** Uses a token that the reader typed, or the link that it is part of. */
export const useToken = async (text) => {
  const at = text.indexOf("token="), typed = at < 0 ? text.trim() : new URLSearchParams(text.slice(at)).get("token").trim();
  const token = /^[\x21-\x7e]*$/.test(typed) ? typed : "";
  isTried = true;
  const answer = token.startsWith(SERVICE_TOKEN) ? null : await exchange(token).catch(() => null);
  session = answer?.ok ? await answer.json() : { token, reader: "" };
  sessionStorage.setItem(KEY, JSON.stringify(session));
};

export const ask = async (path, options = {}) => {
  const answer = await fetch(path, { ...options, headers: { Authorization: `Bearer ${session?.token ?? ""}`, ...options.headers } }).catch(() => { throw new Unreachable(); });
  if (answer.ok) return answer;
  const refused = new Refused(answer.status, await answer.json().catch(() => null));
  if (answer.status === 401) ended(refused);
  throw refused;
};

export const getJson = async (path) => (await ask(path)).json();

export const post = async (path, body = null) => {
  const options = { method: "POST" };
  if (body !== null) Object.assign(options, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  return (await ask(path, options)).json();
};
