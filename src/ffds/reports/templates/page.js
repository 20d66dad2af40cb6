"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const numeric = !head.classList.contains("text");
      const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const compare = (a, b) => numeric ? a - b : a.localeCompare(b, undefined, { numeric: true });
      const known = [], unknown = [];
      for (const row of body.rows) (value(row) === "" ? unknown : known).push(row);
      known.sort((a, b) => (rising ? 1 : -1) * compare(value(a), value(b)));
      body.append(...known, ...unknown);
    });
  });
}
for (const input of document.querySelectorAll("input[data-filter]")) {
  const table = document.getElementById(input.dataset.filter);
  input.addEventListener("input", () => {
    const wanted = input.value.toLocaleLowerCase();
    for (const row of table.tBodies[0].rows)
      row.hidden = ![...row.querySelectorAll(".text")].some((cell) => cell.textContent.toLocaleLowerCase().includes(wanted));
  });
}
const order = document.getElementById("matrix-order");
const matrix = document.getElementById("matrix");
if (order && matrix) order.addEventListener("change", () => {
  const labels = JSON.parse(order.selectedOptions[0].dataset.labels);
  const places = new Map(labels.map((label, place) => [String(label), place]));
  const place = (cell) => places.get(cell.dataset.label);
  for (const row of [...matrix.tHead.rows, ...matrix.tBodies[0].rows])
    row.append(...[...row.cells].slice(1).sort((a, b) => place(a) - place(b)));
  matrix.tBodies[0].append(...[...matrix.tBodies[0].rows].sort((a, b) => place(a) - place(b)));
});
const heat = document.getElementById("heat");
if (order && heat) {
  order.addEventListener("change", () => {
    for (const image of heat.querySelectorAll("img")) image.classList.toggle("shown", image.dataset.order === order.value);
  });
  const data = document.getElementById("heat-data");
  if (data) {
    const { names, orders, pairs, cell } = JSON.parse(data.textContent);
    const readout = document.getElementById("heat-readout");
    const bins = Math.ceil(names.length / cell);
    const support = new Map();
    for (const [label, , images] of pairs) support.set(label, (support.get(label) ?? 0) + images);
    const show = (event) => {
      const box = heat.getBoundingClientRect();
      const at = (value, size) => Math.min(Math.max(Math.floor((value / size) * bins), 0), bins - 1);
      const column = at(event.clientX - box.left, box.width), row = at(event.clientY - box.top, box.height);
      const labels = (bin) => orders[order.value].slice(bin * cell, (bin + 1) * cell);
      const from = new Set(labels(row)), to = new Set(labels(column));
      let images = 0, all = 0;
      for (const [label, prediction, count] of pairs) if (from.has(label) && to.has(prediction)) images += count;
      for (const label of from) all += support.get(label) ?? 0;
      const named = (bin) => labels(bin).map((label) => names[label]).join(", ");
      readout.textContent = `${named(row)} taken for ${named(column)}: ${images} of ${all} test images`;
    };
    heat.addEventListener("pointermove", show);
    heat.addEventListener("pointerdown", show);
  }
}
