// A request as code for curl, the SDK, OpenAI's client and JavaScript.

import { button, copyText, findAll } from "./dom.js";

const [languages, text, copy] = findAll(["code-languages", "code-text", "code-copy"]);

// Parameters of OpenAI's client; others go into `extra_body`.
const OPENAI = new Set(["model", "prompt", "suffix", "temperature", "top_p", "max_tokens", "seed", "stop", "frequency_penalty", "presence_penalty", "logit_bias"]);

const LANGUAGES = {
  curl: (body, url) => `curl -N ${url}/v1/completions ${"\\"}\n  -H 'Content-Type: application/json' ${"\\"}\n  -H "Authorization: Bearer $SOSTENUTO_API_KEY" ${"\\"}\n  -d '${JSON.stringify({ ...body, stream: true }).replaceAll("'", "'\\''")}'`,
  "Python SDK": ({ prompt, suffix, ...fields }, url) => [
    "import os", "", "import sostenuto  # pip install ./client", "",
    `client = sostenuto.Client(${python(url)}, api_key=os.environ.get("SOSTENUTO_API_KEY"))`,
    `for delta in client.stream(${call({ ...(suffix === undefined ? {} : { suffix }), ...fields }, prompt === undefined ? [] : [python(prompt)])}):`,
    '    print(delta, end="", flush=True)'].join("\n"),
  "OpenAI client": (body, url) => {
    const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.has(name)));
    // OpenAI's client requires a prompt.
    const known = { prompt: "", ...Object.fromEntries(Object.entries(body).filter(([name]) => OPENAI.has(name))) };
    return ["import os", "", "from openai import OpenAI", "",
      `client = OpenAI(base_url=${python(`${url}/v1`)}, api_key=os.environ.get("SOSTENUTO_API_KEY", "none"))`,
      `stream = client.completions.create(${call({ ...known, stream: true, ...(Object.keys(extra).length && { extra_body: extra }) })})`,
      "for chunk in stream:", '    print(chunk.choices[0].text, end="", flush=True)'].join("\n");
  },
  JavaScript: (body, url) => [
    `const response = await fetch(${JSON.stringify(`${url}/v1/completions`)}, {`, '  method: "POST",',
    '  headers: { "Content-Type": "application/json" }, // with a key also: Authorization: `Bearer ${key}`',
    `  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),`, "});",
    "console.log((await response.json()).choices[0].text);"].join("\n"),
};

// Shows a completion request to the gateway at `url`, which has no trailing slash.
export function showCode(body, url) {
  const show = (name) => {
    text.textContent = LANGUAGES[name](body, url);
    [...languages.children].forEach((each) => each.setAttribute("aria-pressed", String(each.textContent === name)));
  };
  languages.replaceChildren(...Object.keys(LANGUAGES).map((name) => button(name, "", () => show(name))));
  copy.textContent = "Copy";
  copy.onclick = async () => {
    copy.textContent = (await copyText(text.textContent)) ? "Copied" : "Select the code and copy it";
  };
  show("curl");
}

// Arguments of a Python call.
function call(named, first = []) {
  return [...first, ...Object.entries(named).map(([name, value]) => `${name}=${python(value)}`)].map((argument) => `\n    ${argument},`).join("") + "\n";
}

// A JSON value as a Python literal.
function python(value) {
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (value === null) return "None";
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`;
  return typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
}
