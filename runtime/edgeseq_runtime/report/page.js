"use strict";
// Sorting and filtering of the table of comparisons; without this script the table is complete, in the order it was measured.
(() => {
  const table = document.getElementById("rows");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const key = (row, column) => {
    const cell = row.cells[column];
    const data = cell.querySelector("data");
    return data ? Number(data.value) : cell.textContent.trim();
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const sign = descending ? -1 : 1;
      body.append(...[...rows].sort((a, b) => sign * compare(key(a, column), key(b, column))));
    });
  });
  const label = document.createElement("label");
  label.className = "filter";
  const select = document.createElement("select");
  const verdict = (row) => row.querySelector(".verdict").classList[1];
  for (const name of ["all", ...new Set(rows.map(verdict))]) {
    select.append(new Option(`${name} (${name === "all" ? rows.length : rows.filter((row) => verdict(row) === name).length})`, name));
  }
  select.addEventListener("change", () => {
    for (const row of rows) row.hidden = select.value !== "all" && verdict(row) !== select.value;
  });
  label.append("Show ", select);
  table.parentElement.before(label);
})();
