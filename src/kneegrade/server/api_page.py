"""`api_page`: the OpenAPI description as one HTML page without scripts, so that the strictest policy can show it."""

from typing import Any, Final

_TEMPLATE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>kneegrade: REST interface</title><link rel="stylesheet" href="/docs.css"></head>
<body><main>
<h1>kneegrade {{ version }}: REST interface</h1>
<p>Every route but <code>/healthz</code> needs a token: <code>Authorization: Bearer TOKEN</code>.
Machines read <a href="/openapi.json">openapi.json</a>.</p>
<pre>curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/dicom" -H "Prefer: wait=60" \\
  --data-binary @film.dcm {{ origin }}/v1/films</pre>
<nav><ul>{% for route in routes %}<li><a href="#{{ route.id }}"><code>{{ route.method }} {{ route.path }}</code></a>
{{ route.summary }}</li>{% endfor %}</ul></nav>
{% for route in routes %}
<section id="{{ route.id }}"><h2><span class="method">{{ route.method }}</span> <code>{{ route.path }}</code></h2>
{% for paragraph in route.paragraphs %}<p>{{ paragraph }}</p>{% endfor %}
{% if route.parameters %}<h3>Parameters</h3><table><thead><tr><th>name</th><th>in</th><th>type</th><th>meaning</th></tr></thead>
<tbody>{% for one in route.parameters %}<tr><td><code>{{ one.name }}</code>{% if one.required %} (required){% endif %}</td>
<td>{{ one.place }}</td><td>{{ one.type }}</td><td>{{ one.meaning }}</td></tr>{% endfor %}</tbody></table>{% endif %}
{% if route.body %}<h3>Body</h3><p>{{ route.body }}</p>{% endif %}
<h3>Answers</h3><table><thead><tr><th>status</th><th>content</th><th>meaning</th></tr></thead>
<tbody>{% for one in route.answers %}<tr><td>{{ one.status }}</td><td>{{ one.content }}</td><td>{{ one.meaning }}</td></tr>
{% endfor %}</tbody></table></section>
{% endfor %}
<h2 id="schemas">Schemas</h2>
{% for schema in schemas %}<section id="schema-{{ schema.name }}"><h3><code>{{ schema.name }}</code></h3>
<p>{{ schema.summary }}</p><table><thead><tr><th>key</th><th>type</th></tr></thead>
<tbody>{% for one in schema.keys %}<tr><td><code>{{ one.name }}</code>{% if one.required %} (required){% endif %}</td>
<td>{{ one.type }}</td></tr>{% endfor %}</tbody></table></section>{% endfor %}
</main></body></html>
"""
STYLE: Final = """:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; } main { max-width: 60rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
pre { padding: .75rem; overflow-x: auto; background: color-mix(in srgb, currentColor 8%, transparent); }
code { font: .92em ui-monospace, monospace; } h2 { margin-top: 2.5rem; border-top: 1px solid; padding-top: 1rem; }
h3 { font-size: 1rem; margin-bottom: .25rem; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid color-mix(in srgb,
currentColor 25%, transparent); overflow-wrap: anywhere; } th { white-space: nowrap; } .method { opacity: .75; }
nav ul { padding-left: 1.25rem; }
"""


def api_page(description: dict[str, Any], origin: str) -> str:
    """The page.

    Args:
        description: of `FastAPI.openapi()`.
        origin: address of the service, for the example.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    routes = [
        _route(path, method, one)
        for path, methods in description["paths"].items()
        for method, one in methods.items()
    ]
    schemas = [_schema(name, one) for name, one in description["components"]["schemas"].items()]
    return template.render(version=description["info"]["version"], origin=origin, routes=routes, schemas=schemas)


def _route(path: str, method: str, route: dict[str, Any]) -> dict[str, Any]:
    description = str(route.get("description") or route.get("summary") or "")
    paragraphs = [" ".join(part.split()) for part in description.split("\n\n")]
    return {
        "id": f"{method}-{path.strip('/').replace('/', '-').replace('{', '').replace('}', '') or 'root'}",
        "method": method.upper(), "path": path, "summary": paragraphs[0], "paragraphs": paragraphs,
        "parameters": [
            {
                "name": one["name"], "place": one["in"], "required": one.get("required", False),
                "type": _type(one["schema"]), "meaning": one.get("description", ""),
            }
            for one in route.get("parameters", ())
        ],
        "body": ", ".join(route.get("requestBody", {}).get("content", ())),
        "answers": [
            {
                "status": status, "meaning": one["description"],
                "content": ", ".join(
                    f"{media_type} ({_type(content.get('schema', {}))})" if content.get("schema") else media_type
                    for media_type, content in one.get("content", {}).items()
                ),
            }
            for status, one in sorted(route["responses"].items())
        ],
    }  # fmt: skip


def _schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    required = schema.get("required", ())
    keys = [
        {"name": key, "required": key in required, "type": _type(one)}
        for key, one in schema.get("properties", {}).items()
    ]
    return {"name": name, "summary": str(schema.get("description", "")).split("\n\n")[0], "keys": keys}


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return ", ".join(f'"{value}"' for value in schema["enum"])
    if options := schema.get("anyOf"):
        return " or ".join(_type(one) for one in options)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    text = str(schema.get("format") or schema.get("type") or "any value")
    return f"{text} {schema['pattern']}" if "pattern" in schema else text
