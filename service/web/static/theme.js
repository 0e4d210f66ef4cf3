// The light or dark theme of all pages: the system's, until the button selects one; a change dispatches `theme`.

const STORED = "sostenuto-theme";
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");

button.addEventListener("click", () => {
  localStorage.setItem(STORED, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  change();
});
system.addEventListener("change", change);
show();

function change() {
  show();
  document.dispatchEvent(new Event("theme"));
}

function show() {
  const name = localStorage.getItem(STORED) ?? (system.matches ? "dark" : "light");
  document.documentElement.dataset.theme = name;
  document.documentElement.classList.toggle("dark-mode", name === "dark"); // Swagger UI's name for it
  button.setAttribute("aria-pressed", String(name === "dark"));
}
