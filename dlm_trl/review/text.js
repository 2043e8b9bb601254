"use strict";
// Making elements with text, and asking the server. Text is only ever set as text, never as HTML.

const $ = (selector) => document.querySelector(selector);

// Control characters, and those that change the direction of text, are shown as escapes, so that nothing hides.
const HIDDEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const visible = (text) => text.replace(HIDDEN, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  if (text !== "") made.textContent = visible(String(text));
  if (className) made.className = className;
  return made;
}

function options(select, entries) {
  const chosen = select.value;
  select.replaceChildren(...entries.map(([value, text]) => {
    const option = element("option", text);
    option.value = value;
    return option;
  }));
  select.value = entries.some(([value]) => value === chosen) ? chosen : entries[0][0];
}

async function request(path, body) {
  const how = body ? { method: "POST", body: JSON.stringify(body) } : {};
  let response;
  try {
    response = await fetch(path, how);
  } catch {
    throw new Error("dlm-trl review isn't running any more. Start it again, and open the address that it prints.");
  }
  if (response.headers.get("Content-Type") !== "application/json") {
    throw new Error(response.status === 403 ? await response.text() : "The server failed; its terminal says why.");
  }
  const result = await response.json();
  if (result.error) throw new Error(result.error);
  return result;
}
