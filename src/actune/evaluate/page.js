const root = document.documentElement;
const count = document.getElementById("count");
const cases = Array.from(document.querySelectorAll(".case"));
const controls = Array.from(document.querySelectorAll("[data-by]"));
const text = document.getElementById("text");

function filter() {
  const words = text.value.toLowerCase();
  let shown = 0;
  for (const one of cases) {
    let fits = !words || one.textContent.toLowerCase().includes(words);
    for (const control of controls) {
      const wanted = control.value;
      if (fits && wanted) fits = ` ${one.getAttribute("data-" + control.dataset.by)} `.includes(` ${wanted} `);
    }
    one.hidden = !fits;
    if (fits) shown += 1;
  }
  count.textContent = `${shown} / ${cases.length}`;
}

document.getElementById("language").addEventListener("click", () => {
  root.lang = root.lang === "zh" ? "en" : "zh";
  for (const option of document.querySelectorAll("option[data-en]")) option.textContent = option.dataset[root.lang];
  text.placeholder = text.dataset[root.lang];
});
for (const control of controls) control.addEventListener("change", filter);
text.addEventListener("input", filter);
const matrices = document.getElementById("matrices");
if (matrices) matrices.addEventListener("change", () => {
  for (const one of document.querySelectorAll(".matrix")) one.hidden = one.id !== matrices.value;
});
filter();
