"""What the document cannot say in JSON Schema, so that what it calls valid is valid."""

import datetime
import os
import re

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    # A cursor is one that an answer held.
    if isinstance(case.query, dict):
        case.query.pop("cursor", None)
    # The same key with another body is refused.
    if case.headers:
        case.headers.pop("Idempotency-Key", None)
    # Webhooks go to this machine alone.
    if isinstance(case.body, dict) and is_address(case.body.get("webhook_url")):
        case.body["webhook_url"] = os.environ["RECEIVER"]
        # Hundreds of them for everything would owe each a thousand deliveries a batch, all in one transaction.
        patterns = case.body.get("subscribed_events")
        if isinstance(patterns, list):
            case.body["subscribed_events"] = ["session.started" if is_for_all(one) else one for one in patterns]
    for item in notifications(case.body):
        # A notification expires in the future.
        if is_moment(item.get("expires_at")):
            item["expires_at"] = "2126-01-02T03:04:05Z"
        # Of a text something is left once tags and control characters are taken out.
        for name in ("title", "body"):
            if isinstance(item.get(name), str) and item[name]:
                item[name] = "x" + item[name][1:]


def notifications(body):
    if not isinstance(body, dict):
        return
    yield body
    items = body.get("notifications")
    if isinstance(items, list):
        yield from (item for item in items if isinstance(item, dict))


def is_address(text):
    fits = isinstance(text, str) and len(text) <= 2048
    return fits and re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?([/?#][!-~]*)?", text) is not None


def is_for_all(pattern):
    return isinstance(pattern, str) and re.fullmatch(r"\*|\*\*|(\*|notification)(\.[a-z0-9_*]+)*", pattern) is not None


def is_moment(text):
    try:
        datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return False
    return True
