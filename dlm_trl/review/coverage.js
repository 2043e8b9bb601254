"use strict";
// Which sentences the pairs ask about: the bar at the top, and the dialog with the sentences that none asks about.

// The numbers of the sentences that the document's own pairs and those in these states ask about.
function covered(states) {
  const asked = new Set(data.own);
  for (const pair of data.pairs) if (states.includes(pair.state)) pair.asks.forEach((number) => asked.add(number));
  return asked;
}

function showCoverage() {
  const inFile = covered(["applied"]);
  const withStaged = covered(["applied", "staged"]);
  const total = data.facts.length;
  const parts = [
    ["own", data.own.length, "by pairs of the document"],
    ["accepted", inFile.size - data.own.length, "by synthesised pairs in the file"],
    ["waiting", withStaged.size - inFile.size, "by staged pairs only"],
    ["none", total - withStaged.size, "by none"],
  ];
  $("#cover-text").textContent = `${inFile.size} of ${total} sentences covered`;
  for (const bar of document.querySelectorAll(".bar")) {
    bar.replaceChildren(...parts.map(([name, count]) => {
      const piece = element("i", "", name);
      piece.style.flexGrow = count;
      return piece;
    }));
  }
  $("#coverage .total").textContent = `Of ${plural(total, "sentence")}, ${inFile.size} are asked about by pairs in the file.`;
  $("#coverage .key").replaceChildren(...parts.map(([name, count, words]) => {
    const item = element("li");
    item.append(element("i", "", name), document.createTextNode(`${count} ${words}`));
    return item;
  }));
}

function openCoverage() {
  const facts = new Set(data.facts);
  const inFile = covered(["applied"]);
  const withStaged = covered(["applied", "staged"]);
  const rows = [];
  const open = new Map();
  for (const { line, title, parts } of data.sections) {
    const sentences = new Map(parts.filter((part) => facts.has(part.sentence)).map((part) => [part.sentence, part]));
    if (!sentences.size) continue;
    const numbers = [...sentences.keys()];
    const counts = [sentences.size, numbers.filter((n) => inFile.has(n)).length, numbers.filter((n) => withStaged.has(n)).length];
    const row = element("tr");
    row.append(element("td", line), element("td", title), ...counts.map((count) => element("td", count, "number")));
    rows.push(row);
    for (const [number, part] of sentences) if (!withStaged.has(number)) open.set(number, part);
  }
  $("#coverage tbody").replaceChildren(...rows);
  $("#coverage .open-sentences").replaceChildren(...[...open.values()].map((part) => {
    const item = element("li");
    item.append(element("small", `line ${part.line}`), document.createTextNode(visible(part.text.replace(/\s+/g, " "))));
    return item;
  }));
  $("#coverage h3").hidden = !open.size;
  $("#coverage").showModal();
}
