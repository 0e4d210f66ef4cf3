// The light or dark theme of all pages: the system's, until the button selects one.

const STORED = "sostenuto-theme";
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");

// Shows the theme; `changed` is called when the button or the system selects another one.
export function startTheme(changed = () => {}) {
  const update = () => {
    show();
    changed();
  };
  button.addEventListener("click", () => {
    localStorage.setItem(STORED, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    update();
  });
  system.addEventListener("change", update);
  show();
}

function show() {
  const name = localStorage.getItem(STORED) ?? (system.matches ? "dark" : "light");
  document.documentElement.dataset.theme = name;
  document.documentElement.classList.toggle("dark-mode", name === "dark"); // Swagger UI's name for it
  button.setAttribute("aria-pressed", String(name === "dark"));
}
