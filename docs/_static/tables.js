// Tables of three columns or more, or wider than the page: on a phone site.css shows each row as a block, so each cell gets
// its column's title.

for (const table of document.querySelectorAll("article table")) {
  const titles = [...table.querySelectorAll("thead th")].map((title) => title.textContent.trim());
  if (titles.length < 3 && table.offsetWidth <= table.parentElement.clientWidth) continue;
  table.classList.add("wide");
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, i) => {
      if (titles[i]) cell.dataset.title = titles[i];
      cell.classList.toggle("empty", cell.textContent.trim() === "");
    });
  }
}
