// The API page: a request as code, which it can send, and the reference by Swagger UI, whose script comes before this one.
// Swagger UI's own page has an inline script, which our policies forbid.

import { get, stream } from "./api.js";
import { showCode } from "./code.js";
import { showModelCard } from "./components/model_card.js";
import { findAll } from "./dom.js";
import { sentence } from "./format.js";

const [run, baseUrl, response] = findAll(["try", "base-url", "response"]);
const url = new URL("..", location.href).href.replace(/\/$/, "");

baseUrl.textContent = `${url}/v1`;
showRequest();

// Shows a request to the first served model; without a key or a model, to the demo.
async function showRequest() {
  const { data: [model] } = await get("../v1/models").catch(() => ({ data: [] }));
  showModelCard(model);
  const prompt = model?.direction === "backward" ? { suffix: "The end." } : { prompt: "The " };
  const body = { model: model?.id ?? "demo", ...prompt, max_tokens: 120, temperature: 0.5, seed: 7 };
  showCode(body, url);
  run.addEventListener("click", () => run.ariaDisabled !== "true" && send(body));
}

async function send(body) {
  [run.ariaDisabled, response.hidden, response.textContent] = ["true", false, ""];
  try {
    for await (const { choices } of stream("../v1/completions", body)) {
      response.append(...choices.map(({ text }) => text));
    }
  } catch (error) {
    response.append(sentence(error.message));
  } finally {
    run.ariaDisabled = "false";
  }
}

/** @type {any} */ (window).SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "../openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  // A link within an operation's button would be a control in a control; the address bar has its URL once it is open.
  plugins: [{ components: { DeepLink: ({ text }) => text } }],
  // Below the title of level 1: the groups of operations, and the types.
  onComplete: () => document.querySelectorAll("h3.opblock-tag, .models h4").forEach((tag) => tag.setAttribute("aria-level", "2")),
  // The list of types stays closed: each operation shows its own.
  defaultModelsExpandDepth: 0,
  // Swagger UI would send the document to its own server for validation.
  validatorUrl: null,
});
