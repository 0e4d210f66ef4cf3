// The API reference: Swagger UI, whose script comes before this one. Its own page starts it by an inline script, which
// no policy of ours allows.

import { showModelCard } from "./components/model_card.js";
import { startTheme } from "./theme.js";

startTheme();
fetch("../v1/models").then((response) => response.json()).then(({ data }) => showModelCard(data[0])).catch(() => {}); // without a key, no card
/** @type {any} */ (window).SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "../openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  // A link within the button of an operation would be a control in a control; its address is in the bar once it is open.
  plugins: [{ components: { DeepLink: ({ text }) => text } }],
  // Below the title of level 1: the groups of operations, and the types.
  onComplete: () => document.querySelectorAll("h3.opblock-tag, .models h4").forEach((tag) => tag.setAttribute("aria-level", "2")),
  // The list of types stays closed: each operation shows its own.
  defaultModelsExpandDepth: 0,
  // Swagger UI would ask a server of its own whether the document is valid.
  validatorUrl: null,
});
