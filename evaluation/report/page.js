// Sorts a table by a column when its head is clicked: numbers by value, else by text; once more turns it around.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.hasAttribute("data-fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const text = (row) => row.cells[column].firstChild?.textContent.trim() ?? "";
      const value = (row) => (/^[+\-−]?[\d.]/.test(text(row)) ? parseFloat(text(row).replace("−", "-")) : NaN);
      const compare = (one, other) => {
        const [a, b] = [value(one), value(other)];
        if (Number.isNaN(a) || Number.isNaN(b)) {
          if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
          return text(one).localeCompare(text(other)) * (up ? 1 : -1);
        }
        return (a - b) * (up ? 1 : -1);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
