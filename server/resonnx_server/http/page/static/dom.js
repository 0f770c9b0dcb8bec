// Elements. Whatever the server sends becomes text here, never markup.

/** Returns an element; children are elements and texts. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Returns the element of the page with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Sets an element's text, unless it is the same: screen readers repeat what is set. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fills a description list with pairs of a term and a text, in place, so that nothing moves. */
export function tell(list, facts) {
  const terms = facts.map(([term]) => term);
  const shown = [...list.querySelectorAll("dt")].map((each) => each.textContent);
  if (terms.join("\n") !== shown.join("\n")) {
    list.replaceChildren(...terms.flatMap((term) => [make("dt", {}, term), make("dd")]));
  }
  const values = list.querySelectorAll("dd");
  facts.forEach(([, text], i) => say(values[i], text));
}

/** Returns a table of texts. */
export function table(title, heads, rows) {
  return make(
    "table",
    {},
    make("caption", {}, title),
    make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text) => make("td", {}, text))))),
  );
}
