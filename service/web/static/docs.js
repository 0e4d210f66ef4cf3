// The API reference: Swagger UI, whose script comes before this one. Its own page starts it by an inline script, which
// no policy of ours allows.

import { showModelCard } from "./components/model_card.js";
import { startTheme } from "./theme.js";

startTheme();
fetch("../v1/models").then((response) => response.json()).then(({ data }) => showModelCard(data[0])).catch(() => {}); // without a key, no card
window.ui = SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "../openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  // The list of types stays closed: each operation shows its own.
  defaultModelsExpandDepth: 0,
  // Swagger UI would ask a server of its own whether the document is valid.
  validatorUrl: null,
});
