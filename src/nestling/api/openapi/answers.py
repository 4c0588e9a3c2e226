"""JSON Schemas of the answers. tests/api/test_schemathesis.py holds real answers against them."""

from typing import Any

from nestling.accounts.key_records import SCOPES
from nestling.api.account.billing import DIRECTIONS, TYPES
from nestling.api.requests.keys import RETENTIONS
from nestling.chat.fields import Schema

STRING: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
AMOUNT: Schema = {"type": "number", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}


def record(**properties: Schema) -> Schema:
    """Return an object that has all these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def array(items: Schema) -> Schema:
    """Return an array."""
    return {"type": "array", "items": items}


def ref(name: str) -> Schema:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def optional(schema: Schema, *names: str) -> Schema:
    """Return a record some of whose properties may be absent."""
    return {**schema, "required": [n for n in schema["required"] if n not in names]}


def _null_or(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_TOKEN = {"token": STRING, "logprob": NUMBER, "bytes": _null_or(array(INTEGER))}
_TEXT_LOGPROBS = record(
    tokens=array(STRING),
    token_logprobs=array(NUMBER),
    top_logprobs=array({"type": "object", "additionalProperties": NUMBER}),
    text_offset=array(COUNT),
)
_FINISH: Schema = {"type": "string", "enum": ["stop", "length"]}
_REPLY = {
    "id": {"type": "string", "pattern": "^gen-[0-9]+-[0-9A-Za-z]{20}$"},
    "created": INTEGER,
    "model": STRING,
    "usage": ref("Usage"),
    "system_fingerprint": STRING,
    "meta": ref("Meta"),
}
_KEY = record(
    name=TEXT_OR_NULL,
    disabled=BOOLEAN,
    prefix={"type": "string", "minLength": 8, "maxLength": 8},
    scopes=_null_or(array({"type": "string", "enum": list(SCOPES)})),
    limit=_null_or(record(retention={"enum": list(RETENTIONS)}, threshold=AMOUNT)),
    expires_at=_null_or(TIME),
    created_at=TIME,
    updated_at=TIME,
    monthly_usage=AMOUNT,
)
_SPEND = {
    "api_key_prefix": TEXT_OR_NULL,
    "start": TIME,
    "end": TIME,
    "spend": AMOUNT,
    "currency": {"const": "USD"},
    "requests": COUNT,
}
_TOKENS = record(input=COUNT, output=COUNT, total=COUNT)
_COST = record(usd=AMOUNT, credits=COUNT)
_PERCENTILES = record(p50=NUMBER, p75=NUMBER, p90=NUMBER, p99=NUMBER)
_METRICS = record(ttft_ms=_PERCENTILES, tps=_PERCENTILES, duration_ms=_PERCENTILES)

SCHEMAS: dict[str, Schema] = {
    "Error": record(
        error=record(message=STRING, type=STRING, param=TEXT_OR_NULL, code=STRING),
        message=STRING,
        path=STRING,
        requestId=STRING,
        statusCode=INTEGER,
        timestamp=TIME,
    ),
    "Usage": record(
        prompt_tokens=COUNT,
        completion_tokens=COUNT,
        total_tokens=COUNT,
        prompt_tokens_details=record(cached_tokens=COUNT, audio_tokens=COUNT),
        completion_tokens_details=record(
            reasoning_tokens=COUNT,
            audio_tokens=COUNT,
            accepted_prediction_tokens=COUNT,
            rejected_prediction_tokens=COUNT,
        ),
    ),
    "Meta": record(usage=record(credits_used=COUNT, usd_spent=AMOUNT)),
    "Logprobs": record(
        content=array(record(**_TOKEN, top_logprobs=array(record(**_TOKEN)))),
        refusal={"type": "null"},
    ),
    "ChatCompletion": record(
        object={"const": "chat.completion"},
        choices=array(
            record(
                index=COUNT,
                message=record(
                    role={"const": "assistant"},
                    content=STRING,
                    refusal={"type": "null"},
                    reasoning_content={"type": "null"},
                ),
                logprobs=_null_or(ref("Logprobs")),
                finish_reason=_FINISH,
            )
        ),
        **_REPLY,
    ),
    "TextCompletion": record(
        object={"const": "text_completion"},
        choices=array(
            record(
                index=COUNT,
                text=STRING,
                logprobs=_null_or(_TEXT_LOGPROBS),
                finish_reason=_FINISH,
            )
        ),
        **_REPLY,
    ),
    "Model": optional(
        record(
            id=STRING,
            object={"const": "model"},
            created=INTEGER,
            owned_by=STRING,
            served_by=STRING,
            type=STRING,
            aliases=array(STRING),
            info=record(
                name=STRING,
                developer=STRING,
                description=STRING,
                contextLength=INTEGER,
                outputMax=INTEGER,
                url=STRING,
                docsUrl=STRING,
            ),
            tags=array(STRING),
            modalities=record(input=array(STRING), output=array(STRING)),
            capabilities=array(STRING),
            pricing=record(
                kind={"const": "fixed"},
                currency={"const": "USD"},
                units=array(record(name=STRING, measure=STRING, price=AMOUNT, per=INTEGER)),
            ),
        ),
        *("modalities", "capabilities", "pricing"),
    ),
    "ModelMetrics": record(
        window_seconds=INTEGER,
        generated_at=TIME,
        models=array(
            record(
                alias=STRING,
                endpoint=STRING,
                metrics=optional(_METRICS, "ttft_ms", "tps", "duration_ms"),
            )
        ),
    ),
    "Key": _KEY,
    "NewKey": record(**_KEY["properties"], key=STRING),
    "UsageTotals": record(**_SPEND),
    "UsageDetail": optional(
        record(
            **_SPEND,
            models=array(record(model=STRING, spend=AMOUNT, requests=COUNT)),
            groups=array(
                optional(
                    record(
                        day=STRING,
                        model=STRING,
                        spend=AMOUNT,
                        tokens=_TOKENS,
                        requests=record(total=COUNT, charged=COUNT, succeeded=COUNT, failed=COUNT),
                    ),
                    *("day", "model"),
                )
            ),
        ),
        "groups",
    ),
    "Logs": record(
        data=array(
            record(
                created=TIME,
                status={"enum": ["succeeded", "failed"]},
                origin={"enum": ["api", "playground"]},
                model=STRING,
                cost=_COST,
                tokens=_TOKENS,
                request_id=TEXT_OR_NULL,
                inference_id=STRING,
                client_request_id=TEXT_OR_NULL,
            )
        ),
        pagination=record(limit=COUNT, offset=COUNT, total=COUNT, has_more=BOOLEAN),
    ),
    "Balance": record(
        balance=COUNT,
        lowBalance=BOOLEAN,
        lowBalanceThreshold=COUNT,
        lastUpdated=TIME,
        autoDebitStatus=STRING,
        status=STRING,
        statusExplanation=STRING,
    ),
    "Transactions": record(
        data=array(
            record(
                created_at=TIME,
                direction={"enum": list(DIRECTIONS)},
                type={"enum": list(TYPES)},
                amount=_COST,
                model=TEXT_OR_NULL,
                reference_id=TEXT_OR_NULL,
            )
        ),
        pagination=record(next_cursor=TEXT_OR_NULL, has_more=BOOLEAN),
    ),
}


def data(schema: Schema) -> Schema:
    """Return a schema under the key `data`."""
    return record(data=schema)


def listed(schema: Schema) -> Schema:
    """Return a list object of OpenAI's kind."""
    return record(object={"const": "list"}, data=array(schema))


BILLING: Schema = record(current_balance=AMOUNT, currency={"const": "USD"})
BILLING_DETAIL: Schema = record(
    user_id=COUNT,
    email=STRING,
    current_balance=AMOUNT,
    currency={"const": "USD"},
    autotopup_settings=record(
        is_enabled=BOOLEAN, threshold=AMOUNT, amount=AMOUNT, currency={"const": "USD"}
    ),
)
STATUS: Schema = record(status={"const": "ok"})
ANY: dict[str, Any] = {}
