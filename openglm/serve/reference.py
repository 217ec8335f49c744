"""`/docs`: the OpenAPI document as a page to read. It fetches nothing but that document, so it works where nothing else
can be reached."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>OpenGLM: the interface</title>
<style>
:root {color-scheme: light dark}
body {font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 1rem auto; padding: 0 1rem}
summary {cursor: pointer; padding: .3rem 0} code {font-family: ui-monospace, monospace; overflow-wrap: anywhere}
table {border-collapse: collapse; width: 100%} td {border-top: 1px solid #8886; padding: .2rem .6rem .2rem 0; vertical-align: top}
</style></head><body><h1>OpenGLM</h1><p><a href="openapi.json">openapi.json</a></p><main></main>
<script>
const make = (parent, tag, text) => { const one = document.createElement(tag); if (text) one.textContent = text; parent.append(one); return one; };
fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  const found = (schema) => schema.$ref ? schema.$ref.split("/").slice(1).reduce((at, key) => at[key], api) : schema;
  const limits = {minimum: "≥ ", exclusiveMinimum: "> ", maximum: "≤ ", exclusiveMaximum: "< ",
    minLength: "length ≥ ", maxLength: "length ≤ ", minItems: "items ≥ ", maxItems: "items ≤ "};
  const words = (schema) => {
    if (schema.$ref) return schema.$ref.split("/").pop();
    if (schema.anyOf) return schema.anyOf.filter((one) => one.type !== "null").map(words).join(" or ") || "null";
    const bounds = Object.keys(limits).filter((key) => key in schema).map((key) => limits[key] + schema[key]);
    const kind = schema.enum ? schema.enum.join(" | ") : "const" in schema ? String(schema.const) : schema.items ? "list of " + words(schema.items) : schema.type || "anything";
    return [kind, ...bounds].join(", ");
  };
  const table = (parent, schema) => {
    const rows = make(parent, "table");
    for (const [name, field] of Object.entries(schema.properties || {})) {
      const row = make(rows, "tr");
      make(make(row, "td"), "code", name + ((schema.required || []).includes(name) ? " *" : ""));
      make(row, "td", words(field) + (field.default != null ? ", default " + JSON.stringify(field.default) : ""));
    }
  };
  const main = document.querySelector("main");
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, operation] of Object.entries(methods)) {
    const details = make(main, "details");
    make(make(details, "summary"), "code", method.toUpperCase() + " " + path);
    if (operation.description) make(details, "p", operation.description);
    const body = operation.requestBody && found(operation.requestBody.content["application/json"].schema);
    if (body && body.description) make(details, "p", body.description);
    if (body) table(details, body);
  }
  make(main, "h2", "Parts");
  for (const [name, schema] of Object.entries(api.components.schemas)) if (schema.properties) {
    const details = make(main, "details");
    make(make(details, "summary"), "code", name);
    table(details, schema);
  }
});
</script></body></html>
"""


@router.get("/docs", response_class=HTMLResponse)
async def docs() -> HTMLResponse:
    return HTMLResponse(_PAGE)
