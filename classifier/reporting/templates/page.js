// The script only sorts tables; without it they keep their first order.
document.getElementById("sorting").hidden = false;
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const now = head.getAttribute("aria-sort");
      const next = now === null ? first : now === "ascending" ? "descending" : "ascending";
      table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.order;
      const numbers = head.classList.contains("number");
      const rows = [...body.rows].sort((a, b) => {
        const left = value(a), right = value(b);
        if (left === "" || right === "") return (left === "") - (right === "");
        return sign * (numbers ? left - right : left.localeCompare(right));
      });
      body.append(...rows);
    });
  });
}
