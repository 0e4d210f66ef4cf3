// The response of `/v1/inspect` as matrices: a row for each token, a column for each unit.

import { post } from "./api.js";

// In the order of the list: name, help text, and whether values are signed.
export const KINDS = {
  hidden: { name: "Hidden state h", signed: true, help: "the output of the layer, and its state for the next token" },
  cell: { name: "Cell state c (remember)", signed: true, help: "the long-term state, c′ = f⊙c + i⊙g" },
  forget: { name: "Forget gate f", signed: false, help: "the fraction of the previous cell state that is kept" },
  input: { name: "Input gate i", signed: false, help: "the fraction of the candidate that is written" },
  candidate: { name: "Candidate g", signed: true, help: "the values that may be written to the state" },
  learn: { name: "Learn i⊙g", signed: true, help: "the values that are written to the cell state" },
  output: { name: "Output gate o", signed: false, help: "the fraction of the cell state that is output, h′ = o⊙tanh c′ (use)" },
  update: { name: "Update gate z", signed: false, help: "the fraction of the previous state that is kept, h′ = z⊙h + (1 − z)⊙g" },
  reset: { name: "Reset gate r", signed: false, help: "the fraction of the previous state that enters the candidate" },
  top: { name: "Top outputs", signed: true, help: "the input of the output layer; the layers of this model cannot be inspected" },
};

const ROWS_AT_ONCE = 64;
const GATES = ["forget", "input", "candidate", "output", "update", "reset"];

export class Matrix {
  // values: Float32Array, rows × columns, row by row.
  constructor(values, columns, signed) {
    this.values = values;
    this.columns = columns;
    this.rows = columns ? values.length / columns : 0;
    this.signed = signed;
    // The value with the strongest color: 1 for gates, otherwise the 95th percentile of the absolute values.
    this.limit = signed ? percentile95(values) : 1;
  }

  at(row, column) {
    return this.values[row * this.columns + column];
  }

  // The values of a column, one for each row.
  column(column) {
    return Array.from({ length: this.rows }, (_, row) => this.at(row, column));
  }

  // The mean of a row.
  mean(row) {
    let sum = 0;
    for (let i = row * this.columns; i < (row + 1) * this.columns; i++) sum += this.values[i];
    return sum / this.columns;
  }

  // The value of a column with the strongest color: the 90th percentile of its absolute values, as a few in a cell state
  // may be many times as large; 1 if all are zero.
  strong(column) {
    const values = this.column(column).map(Math.abs).sort((one, other) => one - other);
    return values[Math.floor(0.9 * values.length)] || this.most(column);
  }

  // The largest absolute value of a column; 1 if all are zero.
  most(column) {
    let most = 0;
    for (let i = column; i < this.values.length; i += this.columns) most = Math.max(most, Math.abs(this.values[i]));
    return most || 1;
  }
}

export class Inspection {
  // Inspects a text: `fields` are those of a request to `/v1/inspect`.
  static async of(fields, signal) {
    const response = await inspect(fields, signal);
    const found = new Inspection(response);
    await found.#add(response);
    return found;
  }

  constructor(response) {
    this.reference = `${response.model}:${response.version}`;
    this.tokens = response.tokens;
    this.logprobs = response.token_logprobs;
    this.alternatives = response.top_logprobs;
    this.expected = response.expected;
    this.tokenIds = response.token_ids;
    this.positions = response.positions;
    this.layers = new Map();
    // The row of each token; -1 if the response lacks its values.
    this.rowOf = new Int32Array(this.tokens.length).fill(-1);
    this.positions.forEach((position, row) => { this.rowOf[position] = row; });
  }

  // Adds the values of another request for the same text.
  async extend(fields, signal) {
    await this.#add(await inspect(fields, signal));
  }

  // Unpacks the values of a response, and yields to the browser in between.
  async #add(response) {
    for (const { layer, units, values } of response.layers) {
      if (!this.layers.has(layer)) this.layers.set(layer, { units, matrices: new Map() });
      const { matrices } = this.layers.get(layer);
      for (const [kind, packed] of Object.entries(values)) {
        matrices.set(kind, new Matrix(fromHalves(packed), units.length, KINDS[kind].signed));
        await yieldToBrowser();
      }
      if (matrices.has("input")) matrices.set("learn", product(matrices.get("input"), matrices.get("candidate")));
    }
  }

  units(layer) {
    return this.layers.get(layer).units;
  }

  matrix(layer, kind) {
    return this.layers.get(layer)?.matrices.get(kind);
  }

  kinds(layer) {
    return Object.keys(KINDS).filter((kind) => this.matrix(layer, kind));
  }

  // Everything as JSON for other programs, with a list of numbers for each token.
  async json() {
    const { reference, tokens, tokenIds, logprobs, alternatives, expected, positions } = this;
    const head = { model: reference, tokens, token_ids: tokenIds, token_logprobs: logprobs, top_logprobs: alternatives, expected, positions };
    /** @type {(string | Blob)[]} */
    const parts = [JSON.stringify(head).slice(0, -1), ',"layers":['];
    for (const [layer, { units, matrices }] of this.layers) {
      parts.push(parts.length > 2 ? "," : "", `{"layer":${layer},"units":${JSON.stringify(units)},"values":{`);
      let comma = "";
      for (const [kind, { values, rows, columns }] of matrices) {
        parts.push(comma, `"${kind}":[`);
        for (let at = 0; at < rows; at += ROWS_AT_ONCE) {
          const lines = [];
          for (let next = at; next < Math.min(rows, at + ROWS_AT_ONCE); next++) {
            // Five significant digits identify every float16.
            lines.push(JSON.stringify(Array.from(values.subarray(next * columns, (next + 1) * columns), (value) => Number(value.toPrecision(5)))));
          }
          parts.push(at ? "," : "", new Blob([lines.join(",")]));
          await yieldToBrowser();
        }
        parts.push("]");
        comma = ",";
      }
      parts.push("}}");
    }
    return new Blob([...parts, "]}"], { type: "application/json" });
  }

  hasGates(layer) {
    return GATES.some((kind) => this.matrix(layer, kind));
  }
}

// The response to a request, with numbers as base64 of float16.
function inspect(fields, signal) {
  return post("v1/inspect", { ...fields, encoding_format: "base64_float16" }, signal);
}

// Lets the browser render and handle events before work continues.
export function yieldToBrowser() {
  return new Promise((resolve) => setTimeout(resolve));
}

function product(one, other) {
  return new Matrix(one.values.map((value, i) => value * other.values[i]), one.columns, true);
}

function percentile95(values) {
  const step = Math.max(1, Math.floor(values.length / 20_000));
  const sample = [];
  for (let i = 0; i < values.length; i += step) sample.push(Math.abs(values[i]));
  sample.sort((one, other) => one - other);
  return sample[Math.floor(sample.length * 0.95)] || 1;
}

// The value of each of the 65,536 numbers of IEEE 754's binary16, as not all browsers have arrays of that type yet.
const HALVES = Float32Array.from({ length: 2 ** 16 }, (_, bits) => {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
});

function fromHalves(packed) {
  const bytes = atob(packed);
  const values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) values[i] = HALVES[bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8)];
  return values;
}
