"use strict";
// The table of jobs: sorted, filtered and shown a page at a time, so that fifty thousand rows cost no more than a hundred.
(() => {
  const PAGE = 100, PRINTED = 1000;
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const table = find("jobs-table"), body = table.tBodies[0], search = find("search");
  const columns = data.columns, count = data.count;
  const value = columns.map((c) => c.words ? (row) => c.words[c.values[row]] : (row) => c.values[row]);
  const choices = ["state", "cause"].map((id) => [find(id), columns.findIndex((c) => c.id === id)]);
  let order = Array.from({length: count}, (_, row) => row), shown = order, page = 0, texts = null;

  const span = (s) => {
    if (s < 0.95) return s.toFixed(1) + " s";
    if (s < 120) return s.toFixed(0) + " s";
    const m = Math.round(s / 60);
    return m < 120 ? m + " min" : Math.floor(m / 60) + " h " + String(m % 60).padStart(2, "0") + " min";
  };
  const formats = {
    span,
    gib: (x) => x * 1024 < 999.5 ? (x * 1024).toFixed(0) + " MiB" : x < 99.95 ? x.toFixed(1) + " GiB" : Math.round(x).toLocaleString("en") + " GiB",
    time: (x) => new Date(x * 1000).toISOString().slice(0, 19).replace("T", " "),
    number: (x) => String(x),
  };
  const written = (column, x) => x === null || x === undefined ? "" : formats[column.kind] ? formats[column.kind](x) : String(x);

  const cell = (column, place, row) => {
    const element = document.createElement(place ? "td" : "th");
    if (!place) element.scope = "row";
    const x = value[place](row);
    element.textContent = written(column, x);  // text, whatever it looks like
    const looks = column.kind === "state" ? "cb-s cb-" + x : column.number ? "n" : column.wide ? "wide" : "";
    if (looks) element.className = looks;
    return element;
  };

  const draw = (size = PAGE) => {
    const from = size === PAGE ? page * PAGE : 0, rows = shown.slice(from, from + size);
    const lines = document.createDocumentFragment();
    rows.forEach((row, place) => {
      const line = document.createElement("tr");
      line.setAttribute("aria-rowindex", from + place + 2);
      columns.forEach((column, at) => line.appendChild(cell(column, at, row)));
      lines.appendChild(line);
    });
    body.replaceChildren(lines);
    table.setAttribute("aria-rowcount", shown.length + 1);
    const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1), n = (x) => x.toLocaleString("en");
    find("found").textContent = n(shown.length) + " of " + n(count) + (count === 1 ? " job" : " jobs");
    find("where").textContent = shown.length ? n(from + 1) + "–" + n(from + rows.length) + " of " + n(shown.length) : "no job";
    find("pages").hidden = last === 0;
    for (const [id, off] of [["first", page === 0], ["back", page === 0], ["on", page >= last], ["last", page >= last]])
      find(id).disabled = off;
  };

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = choices.filter(([choice]) => choice.value);
    if (words.length && !texts)
      texts = order.slice().sort((a, b) => a - b).map((row) =>
        columns.map((c, at) => c.kind === "time" ? "" : written(c, value[at](row))).join("\n").toLowerCase());
    shown = order.filter((row) => wanted.every(([choice, at]) => value[at](row) === choice.value) && words.every((w) => texts[row].includes(w)));
    page = 0;
    draw();
  };

  const sort = (place, down) => {
    const at = value[place], sign = down ? -1 : 1, column = columns[place];
    const text = !column.number, compare = new Intl.Collator("en", {numeric: true}).compare;
    const rank = text && new Map([...new Set(order.map(at))].sort((a, b) => compare(a ?? "", b ?? "")).map((x, n) => [x, n]));
    order = order.slice().sort((a, b) => {
      const x = at(a), y = at(b), none = (v) => v === null || v === undefined || v === "";
      if (none(x) || none(y)) return none(x) - none(y) || a - b;  // what is not known stays at the end
      return sign * (text ? rank.get(x) - rank.get(y) : x - y) || a - b;
    });
    filter();
  };

  [...table.tHead.rows[0].cells].forEach((head, place, heads) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    sort(place, down);
  }));
  let typing;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, 120); });
  const choose = (cause) => {
    search.value = "";
    for (const [choice] of choices) choice.value = choice.id === "cause" ? cause : "";
    filter();
    search.focus({preventScroll: true});
  };
  choices.forEach(([choice]) => choice.addEventListener("change", filter));
  find("clear").addEventListener("click", () => choose(""));
  const turn = (to) => () => { page = to(); draw(); table.scrollIntoView({block: "start"}); };
  const last = () => Math.max(0, Math.ceil(shown.length / PAGE) - 1);
  find("first").addEventListener("click", turn(() => 0));
  find("back").addEventListener("click", turn(() => Math.max(0, page - 1)));
  find("on").addEventListener("click", turn(() => Math.min(last(), page + 1)));
  find("last").addEventListener("click", turn(last));
  document.querySelectorAll("button[data-find]").forEach((button) => button.addEventListener("click", () => {
    choose(button.dataset.find);
    find("jobs").scrollIntoView();
  }));
  addEventListener("beforeprint", () => draw(PRINTED));
  addEventListener("afterprint", () => draw());
  document.querySelectorAll("[data-script]").forEach((part) => { part.hidden = false; });
  draw();
})();
