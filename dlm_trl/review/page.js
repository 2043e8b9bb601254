"use strict";
// One pair at a time, beside a list of plain rows. Every decision goes to the server, which writes it.

const VIEWS = { staged: "to review", applied: "in the file", rejected: "rejected" };
let data = null; // what /state sent; pairs change with each decision
let view = "staged";
let shown = []; // the pairs of this view that pass the filters, in order
let current = null; // the pair on show, or null
let isBusy = false; // waiting for the server
let section = null; // number of the section on show

// ---- the server

function setBusy(on) {
  isBusy = on;
  $("main").setAttribute("aria-busy", String(on));
}

async function load() {
  setBusy(true);
  try {
    data = await request("state");
  } catch (error) {
    alertUser(error.message);
    return;
  } finally {
    setBusy(false);
  }
  $("#alert").hidden = true;
  document.title = `Review: ${data.name}`;
  $("#name").textContent = visible(data.name);
  $("#name").title = visible(data.path);
  section = null;
  const filters = $("#filters");
  const teachers = [...new Set(data.pairs.map((pair) => pair.teacher))].sort();
  const used = [...new Set(data.pairs.map((pair) => pair.section))].filter((i) => i !== null).sort((a, b) => a - b);
  const gone = data.pairs.some((pair) => pair.section === null) ? [["gone", "prose that is gone"]] : [];
  options(filters.teacher, [["", "all"], ...teachers.map((name) => [name, visible(name)])]);
  options(filters.section, [["", "all"], ...used.map((i) => [String(i), `${data.sections[i].line}: ${data.sections[i].title}`]), ...gone]);
  options(filters.score, [["", "any"], ...Object.keys(data.scores).map((name) => [name, name])]);
  restorePlace();
  refresh(sessionStorage.getItem("pair"));
  if (current && sessionStorage.getItem(`draft ${current.id}`)) startEditing(); // reloaded while editing
}

async function decide(path, pair, more = {}) {
  if (isBusy || (!pair && path !== "undo")) return;
  setBusy(true);
  const at = shown.indexOf(pair);
  try {
    const done = await request(path, { version: data.version, ...(pair && { id: pair.id }), ...more });
    $("#alert").hidden = true;
    const old = data.pairs.find((each) => each.id === done.was) ?? data.pairs.find((each) => each.id === done.pair.id);
    if (!old) { // decided about in another tab, since this one was loaded
      await load();
      return;
    }
    sessionStorage.removeItem(`draft ${old.id}`);
    Object.assign(old, done.pair);
    data.undo = done.undo;
    if (path === "undo") {
      view = old.state;
      if (!passes(old)) $("#filters").reset();
      refresh(old.id);
    } else {
      const next = shown.slice(at + 1).concat(shown.slice(0, at).reverse()).find((each) => each.state === view);
      refresh(next && next.id);
    }
    say(done.message, old.question);
  } catch (error) {
    alertUser(error.message);
  } finally {
    setBusy(false);
  }
}

function alertUser(text) {
  $("#alert span").textContent = visible(text);
  $("#alert").hidden = false;
  $("#said").replaceChildren();
}

function say(message, question) {
  $("#said").replaceChildren(element("b", message), document.createTextNode(` ${visible(question)}`));
}

// ---- which pairs are shown

function passes(pair) {
  const { section, teacher, score, from, to } = $("#filters");
  if (pair.state !== view) return false;
  if (section.value && section.value !== (pair.section === null ? "gone" : String(pair.section))) return false;
  if (teacher.value && teacher.value !== pair.teacher) return false;
  if (!score.value) return true;
  const value = pair.scores.find((each) => each.name === score.value)?.value;
  if (value === undefined || value === null) return false;
  return (from.value === "" || value >= Number(from.value)) && (to.value === "" || value <= Number(to.value));
}

const isFiltered = () => ["section", "teacher", "score"].some((name) => $("#filters")[name].value);

// Shows the pairs that pass the filters, and of these the one with this id, or else the first.
function refresh(id) {
  shown = data.pairs.filter(passes);
  const counts = { staged: 0, applied: 0, rejected: 0 };
  for (const pair of data.pairs) counts[pair.state]++;
  for (const button of document.querySelectorAll("#views button")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
    button.querySelector("b").textContent = counts[button.dataset.view];
  }
  const hasScore = Boolean($("#filters").score.value);
  for (const name of ["from", "to"]) $("#filters")[name].disabled = !hasScore;
  $("#clear").disabled = !isFiltered();
  $("#undo").disabled = data.undo === null;
  $("#undo").title = data.undo === null ? "Nothing to undo" : `Undo the decision about: ${visible(data.undo)}`;
  $("#list").replaceChildren(...shown.map(listed));
  showCoverage();
  show(shown.find((pair) => pair.id === id) ?? shown[0] ?? null);
}

function listed(pair) {
  const item = element("li");
  item.dataset.id = pair.id;
  const why = pair.state === "rejected" ? `${pair.dropped ? "dropped" : pair.stage} · ` : "";
  const where = pair.line === null ? "" : `line ${pair.line}`;
  item.append(element("span", pair.question), element("small", why + where + (pair.editedFrom ? " · edited" : "")));
  return item;
}

function move(step) {
  const next = shown[shown.indexOf(current) + step];
  if (next) show(next);
}

function savePlace() {
  const form = Object.fromEntries(new FormData($("#filters")));
  sessionStorage.setItem("place", JSON.stringify({ view, ...form }));
  if (current) sessionStorage.setItem("pair", current.id);
}

function restorePlace() {
  const { view: before, ...form } = JSON.parse(sessionStorage.getItem("place") ?? "{}");
  if (before) view = before;
  for (const [name, value] of Object.entries(form)) {
    const field = $("#filters")[name];
    if (field.type !== "select-one" || [...field.options].some((option) => option.value === value)) field.value = value;
  }
}

// ---- one pair

function show(pair) {
  current = pair;
  savePlace();
  stopEditing();
  for (const id of ["#pair", "#prose"]) $(id).hidden = !pair;
  $("#nothing").hidden = Boolean(pair);
  for (const item of document.querySelectorAll("#list [aria-current]")) item.removeAttribute("aria-current");
  if (!pair) return showNothing();
  const at = shown.indexOf(pair);
  const row = $("#list").children[at];
  row.setAttribute("aria-current", "true");
  row.scrollIntoView({ block: "nearest" });
  showState(pair, at);
  $("#question").textContent = visible(pair.question);
  $("#answer").textContent = visible(pair.answer);
  showBefore(pair);
  const adapter = pair.adapter ? `, for the adapter ${pair.adapter}` : "";
  $("#origin").textContent = visible(`By ${pair.teacher}, ${pair.kind}${adapter}, ${pair.at} · ${pair.id.slice(0, 8)}`);
  showScores(pair);
  showChecks(pair);
  showProse(pair);
  $("#pair .scroll").scrollTop = 0;
  $("#accept span").textContent = pair.state === "rejected" ? "Accept all the same" : "Accept";
  for (const id of ["#accept", "#change"]) $(id).disabled = pair.state === "applied";
  $("#drop").disabled = pair.state !== "staged";
  $("#previous").disabled = at === 0;
  $("#next").disabled = at === shown.length - 1;
}

function showNothing() {
  const [title, text] = $("#nothing").children;
  if (isFiltered()) {
    title.textContent = "No pair passes the filters";
    text.textContent = "Clear them to see the others.";
  } else if (view === "staged") {
    const lost = data.pairs.filter((pair) => pair.state === "rejected").length;
    title.textContent = "Nothing left to review";
    text.textContent = `Every decision is saved; you can close this page. ${plural(lost, "rejected pair")} can still be accepted: press 3.`;
  } else {
    title.textContent = view === "applied" ? "No synthesised pair is in the file" : "No pair was rejected";
    text.textContent = "";
  }
}

function showState(pair, at) {
  const parts = [document.createTextNode(`${at + 1} of ${shown.length} ${VIEWS[view]}`)];
  const add = (text, className) => parts.push(document.createTextNode(" · "), element("strong", text, className));
  if (pair.state === "rejected") {
    add(pair.dropped ? "you dropped it" : `rejected (${pair.stage}): ${pair.reason}`, "no");
    if (!pair.dropped && data.checks[pair.stage]) parts.push(document.createTextNode(` · what is checked: ${data.checks[pair.stage]}`));
  }
  if (pair.editedFrom) add("edited");
  if (pair.state === "applied") parts.push(document.createTextNode(` · to take it out: dlm-trl synth revert ${visible(data.name)} --id ${pair.id.slice(0, 8)}`));
  $("#state").replaceChildren(...parts);
}

function showBefore(pair) {
  $("#before").hidden = !pair.editedFrom;
  if (pair.editedFrom) $("#before").replaceChildren(element("span", "The teacher wrote:"), ...pair.editedFrom.map((text) => element("p", text)));
}

function showScores(pair) {
  $("#scores").hidden = !pair.scores.length;
  $("#scores-of").textContent = pair.editedFrom ? "(of the pair before it was edited)" : "";
  const rows = pair.scores.map(({ name, shown, verdict }) => {
    const row = element("tr");
    const result = verdict.endsWith("not passed") ? "failed" : verdict.endsWith("passed") ? "passed" : "unchecked";
    row.append(element("td", name), element("td", shown, "number"), element("td", verdict, result));
    return row;
  });
  if (pair.runnerUp) {
    const row = element("tr");
    const cell = element("td", pair.runnerUp);
    cell.colSpan = 2;
    row.append(element("td", "runner-up"), cell);
    rows.push(row);
  }
  $("#meaning").hidden = !pair.scores.length;
  $("#meaning dl").replaceChildren(...pair.scores.flatMap(({ name }) => [element("dt", name), element("dd", data.scores[name])]));
  $("#scores tbody").replaceChildren(...rows);
}

function showChecks(pair) {
  $("#checks").hidden = !pair.checks.length;
  $("#checks summary").textContent = `The ${plural(pair.checks.length, "check")} it passed before that`;
  $("#checks ul").replaceChildren(...pair.checks.map((name) => element("li", `${name}: ${data.checks[name]}`)));
}

// ---- the prose

function showProse(pair) {
  const text = $("#prose .scroll");
  if (pair.section === null) {
    section = null;
    $("#prose h3").textContent = "Prose";
    text.replaceChildren(element("em", "The prose that this pair comes from was edited or removed since."));
    return;
  }
  const { line, title, parts } = data.sections[pair.section];
  $("#prose h3").textContent = visible(`Line ${line}: ${title}`);
  if (section !== pair.section) text.scrollTop = 0;
  section = pair.section;
  const asked = covered(["applied"]);
  const facts = new Set(data.facts);
  let first = null;
  text.replaceChildren(...parts.map((part) => {
    if (part.sentence === undefined) return document.createTextNode(visible(part.text));
    const isMarked = pair.marks.includes(part.sentence);
    const isOpen = facts.has(part.sentence) && !asked.has(part.sentence);
    const made = element(isMarked ? "mark" : "span", part.text, isOpen ? "open" : "");
    made.title = `line ${part.line}`;
    if (isMarked && part.sentence !== pair.marks[0]) made.classList.add("also");
    if (part.sentence === pair.marks[0]) first ??= made;
    return made;
  }));
  if (pair.isEdited) $("#prose h3").textContent += " · edited since the pair was written";
  if (!pair.marks.length) $("#prose h3").textContent += " · no sentence has the answer: the pair goes beyond the prose";
  if (first) text.scrollTop += first.getBoundingClientRect().top - text.getBoundingClientRect().top - text.clientHeight / 3;
}

// ---- editing

const isEditing = () => !$("#edit").hidden;

function startEditing() {
  if (!current || current.state === "applied" || isBusy) return;
  const draft = JSON.parse(sessionStorage.getItem(`draft ${current.id}`) ?? "null") ?? current;
  $("#edit").question.value = draft.question;
  $("#edit").answer.value = draft.answer;
  toggleEditing(true);
  $("#edit").question.focus();
}

// Keeps what was typed, so that neither a reload nor a wrong key loses it.
function saveDraft() {
  const { question, answer } = $("#edit");
  sessionStorage.setItem(`draft ${current.id}`, JSON.stringify({ question: question.value, answer: answer.value }));
}

function stopEditing() {
  if (!isEditing()) return;
  toggleEditing(false);
  if (document.activeElement instanceof HTMLTextAreaElement) document.activeElement.blur();
}

function cancelEditing() {
  if (isEditing()) sessionStorage.removeItem(`draft ${current.id}`);
  stopEditing();
}

function toggleEditing(on) {
  for (const id of ["#edit", "#saving"]) $(id).hidden = !on;
  for (const id of ["#texts", "#deciding"]) $(id).hidden = on;
}

const save = () => decide("accept", current, { state: current.state, question: $("#edit").question.value, answer: $("#edit").answer.value });

// ---- keys and buttons

function setView(name) {
  view = name;
  refresh(null);
}

const accept = () => current && current.state !== "applied" && decide("accept", current, { state: current.state });
const drop = () => current && current.state === "staged" && decide("drop", current);
const undo = () => data.undo !== null && decide("undo", null);
const KEYS = {
  a: accept, e: startEditing, d: drop, u: undo, n: () => move(1), j: () => move(1), ArrowRight: () => move(1),
  p: () => move(-1), k: () => move(-1), ArrowLeft: () => move(-1), 1: () => setView("staged"), 2: () => setView("applied"),
  3: () => setView("rejected"), f: () => $("#filters").section.focus(), c: openCoverage, r: load, "?": () => $("#keys").showModal(),
};
const DECISIONS = new Set(["a", "d", "u", "e"]); // a key that is held down decides only once

document.addEventListener("keydown", (event) => {
  const dialog = $("dialog[open]");
  if (dialog) {
    if (event.key === "Escape") {
      event.preventDefault();
      dialog.close();
    }
    return;
  }
  if (isEditing() && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    save();
  } else if (event.key === "Escape") {
    cancelEditing();
    document.activeElement.blur();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  // On a keyboard for another script, by the place of the key.
  const key = /^[ -~]$|^Arrow/.test(event.key) ? event.key : event.code.replace(/^Key/, "");
  const action = data && KEYS[key.length === 1 ? key.toLowerCase() : key];
  if (!action || isEditing() || (event.repeat && DECISIONS.has(key.toLowerCase()))) return;
  event.preventDefault();
  action();
});

for (const [id, action] of Object.entries({
  accept, change: startEditing, drop, undo, previous: () => move(-1), next: () => move(1), save,
  cancel: cancelEditing, cover: openCoverage, help: () => $("#keys").showModal(), reload: load,
})) $(`#${id}`).addEventListener("click", action);

$("#edit").addEventListener("input", saveDraft);
$("#list").addEventListener("click", (event) => {
  const row = event.target.closest("li");
  if (row) show(shown.find((pair) => pair.id === row.dataset.id));
});
$("#views").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) setView(button.dataset.view);
});
$("#filters").addEventListener("input", () => refresh(current && current.id));
$("#filters").addEventListener("reset", () => setTimeout(() => refresh(current && current.id)));
$("#filters").addEventListener("submit", (event) => event.preventDefault());
load();
