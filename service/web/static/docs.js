// Starts Swagger UI, whose scripts come before this one. Its own page does so by an inline script, which no policy of
// ours allows.

window.ui = SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "../openapi.json",
  layout: "StandaloneLayout",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  plugins: [SwaggerUIBundle.plugins.DownloadUrl],
  deepLinking: true,
  // Swagger UI would ask a server of its own whether the description is valid.
  validatorUrl: null,
});
