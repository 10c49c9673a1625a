// Changes that the server does not have yet. The browser keeps them by page, reader and film until they are saved.

const PREFIX = "kneegrade-unsaved ";
let scope = null;

/** Says whose changes of which page are meant from now on. */
export const keepFor = ({ title, mode, study, reader }) => { scope = `${PREFIX}${JSON.stringify([title, mode, study, reader])} `; };

const nameOf = (key, repeat) => `${scope}${key} ${repeat}`;

/** Keeps the reading of a film; `film.isKept` says whether the browser could. */
export const keep = (film) => {
  try {
    localStorage.setItem(nameOf(film.key, film.repeat), JSON.stringify({ based_on: film.revision, reading: film.reading }));
    film.isKept = true;
  } catch { film.isKept = false; }
};

export const drop = ({ key, repeat }) => { try { localStorage.removeItem(nameOf(key, repeat)); } catch { /* nothing is kept */ } };

/** The kept change of a film: `based_on` and `reading`; null without one. */
export const kept = (key, repeat) => {
  try {
    const found = JSON.parse(localStorage.getItem(nameOf(key, repeat)));
    return found && Array.isArray(found.reading?.knees) && Number.isInteger(found.based_on) ? found : null;
  } catch { return null; }
};

/** All kept changes of this reader on this page. */
export const all = () => {
  try {
    return Object.keys(localStorage).filter((name) => scope && name.startsWith(scope)).map((name) => {
      const [key, repeat] = name.slice(scope.length).split(" ");
      return { key, repeat: Number(repeat), ...kept(key, Number(repeat)) };
    }).filter((one) => one.reading);
  } catch { return []; }
};
