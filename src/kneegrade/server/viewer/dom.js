// Elements without innerHTML: text is always text.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** Sets properties of an element: listeners (on…), properties that it has, else attributes; null and false leave out. */
const assign = (node, properties) => {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (node.namespaceURI !== SVG && name in node && name !== "list" && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  return node;
};

/** An HTML element with properties and children. */
export const h = (tag, properties = {}, ...children) => {
  const node = assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};

/** An SVG element with attributes and children. */
export const s = (tag, attributes = {}, ...children) => {
  const node = assign(document.createElementNS(SVG, tag), attributes);
  node.append(...children);
  return node;
};

const TOAST_MS = 5000, MOST_TOASTS = 3;

/** Shows a sentence for some seconds, below those that are shown already. */
export const toast = (text) => {
  const box = $("toast"), line = h("p", {}, text);
  [...box.children].filter((one) => one.textContent === text).forEach((one) => one.remove());
  box.append(line);
  if (box.childElementCount > MOST_TOASTS) box.firstChild.remove();
  box.hidden = false;
  setTimeout(() => {
    line.remove();
    box.hidden = !box.childElementCount;
  }, TOAST_MS);
};
