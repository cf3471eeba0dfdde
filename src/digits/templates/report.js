
// Without it the page shows the same tables and all images; with it, the images of one cell at a time.

const $ = (what, from = document) => [...from.querySelectorAll(what)];
document.documentElement.classList.add("js");

// The confusion matrix

const matrix = document.getElementById("matrix");
if (matrix) {
  const links = $("a", matrix);
  const columns = $("thead th", matrix).map((head) => head.textContent);
  const panel = document.getElementById("cells");
  for (const link of links) {
    const [cell, row] = [link.closest("td"), link.closest("tr")];
    const [is, readAs] = [row.querySelector("th").textContent, columns[cell.cellIndex - 1]];
    link.title = is === readAs ? `${is}, read right: ${link.textContent}` : `${is} read as ${readAs}: ${link.textContent}`;
    link.setAttribute("aria-label", link.title);
    link.tabIndex = -1; // one stop of the Tab key for all of them
    link.onclick = (event) => {
      event.preventDefault();
      choose(link);
      panel.scrollIntoView({ block: "nearest" });
    };
  }

  const choose = (link) => {
    for (const other of $("[aria-current]", matrix)) other.removeAttribute("aria-current");
    for (const other of $(".chosen", panel)) other.classList.remove("chosen");
    document.getElementById(link.hash.slice(1)).classList.add("chosen");
    link.setAttribute("aria-current", "true");
    stopAt(link);
  };
  const stopAt = (link) => {
    for (const other of links) other.tabIndex = other === link ? 0 : -1;
  };
  const of = (hash) => links.find((link) => link.hash === hash);

  // Arrow keys go to the next number in their direction.
  matrix.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const cell = event.target.closest("td");
    if (!step || !cell) return;
    event.preventDefault();
    let [row, column] = [cell.parentElement.sectionRowIndex, cell.cellIndex];
    for (;;) {
      row += step[0];
      column += step[1];
      const next = matrix.tBodies[0].rows[row]?.cells[column];
      if (!next || column < 1) return;
      const link = next.querySelector("a");
      if (!link) continue;
      stopAt(link);
      link.focus();
      return;
    }
  });

  const open = () => {
    const link = of(location.hash);
    if (link) choose(link);
    return link;
  };
  addEventListener("hashchange", open);
  if (!open() && links.length) choose(of(`#${matrix.dataset.first}`) ?? links[0]);
}

// Tables that sort by a column

for (const table of $(".sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, column) => {
    const cell = row.cells[column];
    const number = Number(cell.dataset.value ?? cell.textContent.replaceAll(",", ""));
    return column === 0 ? rows.indexOf(row) : Number.isNaN(number) ? cell.textContent : number;
  };
  $("thead th", table).forEach((head, column) => {
    const button = Object.assign(document.createElement("button"), { textContent: head.textContent });
    head.replaceChildren(button);
    button.onclick = () => {
      const down = head.ariaSort !== "descending" && column > 0 ? true : head.ariaSort === "ascending";
      for (const other of $("thead th", table)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = [...rows].sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        return (x > y) - (x < y) || rows.indexOf(a) - rows.indexOf(b);
      });
      body.append(...(down ? sorted.reverse() : sorted));
    };
  });
}
