"""What the hosted API's page says of its one request, in our own words: types, bounds, required."""

from typing import Any

TEXT_PART = {
    "type": "object",
    "properties": {"type": {"type": "string", "enum": ["text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
FILE_PART = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["file"]},
        "file": {
            "type": "object",
            "properties": {"file_data": {"type": "string"}, "filename": {"type": "string"}},
        },
    },
    "required": ["type", "file"],
}


def message(role: str, parts: list[dict[str, Any]], required: list[str]) -> dict[str, Any]:
    array = {"type": "array", "items": {"anyOf": parts}}
    return {
        "type": "object",
        "properties": {
            "role": {"type": "string", "enum": [role]},
            "content": {"anyOf": [{"type": "string"}, array]},
            "name": {"type": "string"},
        },
        "required": required,
    }


def number(**bounds: float) -> dict[str, Any]:
    return {"type": "number", **bounds}


PAGE_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "enum": ["google/gemma-3n-e4b-it"]},
        "messages": {
            "type": "array",
            "items": {
                "oneOf": [
                    message("user", [TEXT_PART, FILE_PART], ["role", "content"]),
                    message("assistant", [TEXT_PART], ["role"]),
                ]
            },
        },
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        "max_tokens": number(minimum=1),
        "stream": {"type": "boolean"},
        "stream_options": {
            "type": "object",
            "properties": {"include_usage": {"type": "boolean"}},
            "required": ["include_usage"],
        },
        "temperature": number(minimum=0, maximum=2),
        "top_p": number(minimum=0.01, maximum=1),
        "seed": {"type": "integer", "minimum": 1},
        "min_p": number(minimum=0, maximum=1),
        "top_k": number(),
        "repetition_penalty": {**number(), "nullable": True},
        "top_a": number(minimum=0, maximum=1),
        "stop": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"nullable": True, "enum": [None]},
            ]
        },
        "logit_bias": {
            "type": "object",
            "nullable": True,
            "additionalProperties": number(minimum=-100, maximum=100),
        },
    },
    "required": ["model", "messages"],
}

PAGE: dict[str, Any] = {
    "openapi": "3.0.0",
    "info": {"title": "The page", "version": "1"},
    "paths": {
        "/v1/chat/completions": {
            "post": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": PAGE_BODY}},
                },
                "responses": {"201": {"description": "Success"}},
                "security": [{"access-token": []}],
            }
        }
    },
    "components": {"securitySchemes": {"access-token": {"type": "http", "scheme": "bearer"}}},
}
