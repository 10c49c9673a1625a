"""`api_page`: the OpenAPI description as one HTML page without scripts, so that the strictest policy can show it."""

from importlib import resources
from typing import Any, Final

_FILES: Final = resources.files("kneegrade.server")
STYLE: Final = _FILES.joinpath("api_page.css").read_text(encoding="utf-8")


def api_page(description: dict[str, Any], origin: str) -> str:
    """The page.

    Args:
        description: of `FastAPI.openapi()`.
        origin: address of the service, for the example.
    """
    import jinja2

    text = _FILES.joinpath("api_page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)
    routes = [
        _route(path, method, one) for path, methods in description["paths"].items() for method, one in methods.items()
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
                "type": _type(one["schema"]), "meaning": one.get("description", "").replace("`", ""),
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
    return {"name": name, "summary": str(schema.get("description", "")).split("\n\n")[0], "fields": keys}


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
