// Requests to the server. The token of the link is exchanged once; the session lives in this tab.

export class Refused extends Error {
  constructor(status, body) {
    super(body?.detail && typeof body.detail === "string" ? body.detail : `The server answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

const KEY = "kneegrade-session";
let session = null;
let isTried = false;

/** The reader's name; exchanges the one-time token in the address, which is then removed from it. */
export const begin = async () => {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  session = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  if (token) {
    isTried = true;
    history.replaceState(null, "", location.pathname + location.search);
    const answer = await fetch("/v1/session", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });
    if (answer.ok) {
      session = await answer.json();
      sessionStorage.setItem(KEY, JSON.stringify(session));
    } else if (!session) throw new Refused(answer.status, await answer.json().catch(() => null));
  }
  return session?.reader ?? null;
};

/** Whether this tab has tried a token: a typed one, or that of a link. */
export const hasTried = () => isTried || Boolean(session?.token);

/** Uses a token that the reader typed. */
export const useToken = (token) => {
  session = { token, reader: "" };
  sessionStorage.setItem(KEY, JSON.stringify(session));
};

export const ask = async (path, options = {}) => {
  const answer = await fetch(path, { ...options, headers: { Authorization: `Bearer ${session?.token ?? ""}`, ...options.headers } });
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => null));
  return answer;
};

export const getJson = async (path) => (await ask(path)).json();

export const post = async (path, body = null) => {
  const options = { method: "POST" };
  if (body !== null) Object.assign(options, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  return (await ask(path, options)).json();
};
