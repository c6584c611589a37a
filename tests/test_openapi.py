"""docs/openapi.yaml and the example backend describe the same contract.

The yaml is written by hand for people who build another backend; the application's document is
generated from its code. Both are reduced to what a client can notice, and must then be equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the example backend needs the demo extra")

from fastapi.openapi.models import OpenAPI
from ruamel.yaml import YAML

from examples.proxy_manager.factory import create_app
from examples.proxy_manager.settings import Settings

GATEWAY_OPERATIONS = [("/proxy", "get"), ("/blacklist", "get"), ("/activity", "post")]
# Words for people; they cannot make a client fail.
PROSE = {"title", "description", "examples", "summary", "default"}


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    path = Path(__file__).parent.parent / "docs" / "openapi.yaml"
    document: dict[str, Any] = YAML(typ="safe").load(path)
    return document


@pytest.fixture(scope="module")
def application() -> dict[str, Any]:
    return create_app(Settings(system_token="s", jwt_secret="j" * 32)).openapi()


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def reduce_schema(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without references and prose; types as a list, `anyOf X, null` as X or null."""
    schema = resolve(document, schema)
    reduced = {key: value for key, value in schema.items() if key not in PROSE}
    if "type" in reduced:
        kind = reduced["type"]
        reduced["type"] = sorted([kind] if isinstance(kind, str) else kind)
    for bound in ("minimum", "maximum"):
        if bound in reduced:
            reduced[bound] = float(reduced[bound])
    if "required" in reduced:
        reduced["required"] = sorted(reduced["required"])
    if "properties" in reduced:
        reduced["properties"] = {
            name: reduce_schema(document, child) for name, child in schema["properties"].items()
        }
    if "items" in reduced:
        reduced["items"] = reduce_schema(document, reduced["items"])
    if "anyOf" in reduced:
        merged: dict[str, Any] = {"type": []}
        for alternative in reduced.pop("anyOf"):
            part = reduce_schema(document, alternative)
            merged = {**merged, **part, "type": sorted({*merged["type"], *part["type"]})}
        reduced.update(merged)
    return reduced


def reduce_content(document: dict[str, Any], content: dict[str, Any] | None) -> dict[str, Any]:
    return {
        media: reduce_schema(document, body["schema"]) for media, body in (content or {}).items()
    }


def reduce_parameter(document: dict[str, Any], parameter: dict[str, Any]) -> dict[str, Any]:
    schema = reduce_schema(document, parameter["schema"])
    # FastAPI writes an optional parameter as one that may be null; a query or header never is.
    schema["type"] = [kind for kind in schema["type"] if kind != "null"]
    return {"required": parameter.get("required", False), "schema": schema}


def reduce_operation(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    operation = document["paths"][path][method]
    responses = {
        status: resolve(document, answer) for status, answer in operation["responses"].items()
    }
    body = operation.get("requestBody")
    return {
        "operationId": operation["operationId"],
        "security": operation["security"],
        # Header names are compared without case, as HTTP does.
        "parameters": {
            (parameter["in"], parameter["name"].lower()): reduce_parameter(document, parameter)
            for parameter in operation.get("parameters", [])
        },
        "body": body and (body["required"], reduce_content(document, body["content"])),
        "statuses": {
            status: {
                "content": reduce_content(document, answer.get("content")),
                "headers": {
                    name.lower(): reduce_schema(document, header["schema"])
                    for name, header in answer.get("headers", {}).items()
                },
            }
            for status, answer in responses.items()
        },
    }


@pytest.mark.parametrize(("path", "method"), GATEWAY_OPERATIONS)
def test_application_fulfils_contract(
    contract: dict[str, Any], application: dict[str, Any], path: str, method: str
) -> None:
    assert reduce_operation(application, path, method) == reduce_operation(contract, path, method)


def test_contract_is_these_three_operations(contract: dict[str, Any]) -> None:
    found = [(path, method) for path, item in contract["paths"].items() for method in item]
    assert found == GATEWAY_OPERATIONS


def test_contract_is_valid_openapi(contract: dict[str, Any]) -> None:
    OpenAPI.model_validate(contract)


def test_security_schemes_agree(contract: dict[str, Any], application: dict[str, Any]) -> None:
    def schemes(document: dict[str, Any]) -> dict[str, Any]:
        found = document["components"]["securitySchemes"]
        return {name: reduce_schema(document, scheme) for name, scheme in found.items()}

    assert schemes(application) == schemes(contract)


@pytest.mark.parametrize("name", ["Proxy", "Rule", "Activity"])
def test_examples_have_the_fields_of_their_schema(contract: dict[str, Any], name: str) -> None:
    schema = contract["components"]["schemas"][name]
    for example in schema["examples"]:
        assert set(schema["required"]) <= set(example) <= set(schema["properties"])


def test_every_admin_operation_wants_the_system_token(application: dict[str, Any]) -> None:
    for path, item in application["paths"].items():
        for method, operation in item.items():
            if path == "/health":
                assert "security" not in operation
            elif (path, method) != ("/proxy", "get"):
                assert operation["security"] == [{"systemToken": []}], (path, method)
