// The light or dark theme of all pages: the system's, until the button selects one.

const button = document.getElementById("theme");

// Shows the theme; `changed` is called when the button selects another one.
export function startTheme(changed = () => {}) {
  button.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("sostenuto-theme", next);
    show(next);
    changed();
  });
  show(localStorage.getItem("sostenuto-theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
}

function show(name) {
  document.documentElement.dataset.theme = name;
  document.documentElement.classList.toggle("dark-mode", name === "dark"); // Swagger UI's name for it
  button.setAttribute("aria-pressed", String(name === "dark"));
}
