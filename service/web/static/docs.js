// The API reference: Swagger UI, whose script comes before this one. Its own page starts it by an inline script, which
// no policy of ours allows.

import { startTheme } from "./theme.js";

startTheme();
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
