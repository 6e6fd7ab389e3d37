// Comfort alone: without this script the page says the same. Tables can be sorted by a column and searched.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare = (a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        const [p, q] = [x === "" ? NaN : Number(x), y === "" ? NaN : Number(y)];
        if (!isNaN(p) && !isNaN(q)) return down ? q - p : p - q;
        if (!isNaN(p) || !isNaN(q)) return isNaN(p) ? 1 : -1;  // what is no number comes last
        return down ? y.localeCompare(x) : x.localeCompare(y);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "Search this table";
  search.setAttribute("aria-label", search.placeholder);
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
  table.parentElement.before(search);
}
