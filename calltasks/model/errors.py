"""What DashScope's refusals mean: one table of codes (docs/judgements.md), as documented and as people report them.

A code says it all, but for two cases in which the vendor gives one code to two things; there its own fixed phrases are
looked for. A message may quote what was asked: no part of it goes any further than this module.
"""

from __future__ import annotations

import re

from dashscope.v2.errors import DashScopeError

from calltasks.errors import AccountError, PassingError, PermanentError, ServiceError, ThrottledError

SERVICE = "DashScope"

BILL, KEY, MODEL, CALL, THROTTLED, PASSING = "bill", "key", "model", "call", "throttled", "passing"
CODES = {
    # Too much at once, over by itself within a minute or so.
    THROTTLED: "Throttling Throttling.RateQuota Throttling.BurstRate Throttling.AllocationQuota Throttling.Concurrency"
    " Throttling.User LimitRequests limit_requests limit_burst_rate insufficient_quota rate_limit_exceeded"
    " ResourceExhausted TooManyRequests Too_many_requests",
    # Nobody answers before somebody has paid, or a day or a month has passed.
    BILL: "Arrearage PrepaidBillOverdue PostpaidBillOverdue BudgetLimitExceeded CommodityNotPurchased"
    " AllocationQuota.FreeTierOnly AllocationQuota.FreeExceeded InsufficientBalance billing_hard_limit_reached"
    " coding_plan_subscription_expired isv.OUT_OF_SERVICE",
    KEY: "InvalidApiKey invalid_api_key NOT_AUTHORIZED InvalidSecurityToken",
    MODEL: "AccessDenied access_denied AccessDenied.Unpurchased Model.AccessDenied App.AccessDenied"
    " Workspace.AccessDenied ModelNotFound model_not_found Model.NotExist model_not_supported WorkSpaceNotFound"
    " NotFound InvalidURL FlowNotPublished UnsupportedModel",
    # This question only; the next one may well be answered.
    CALL: "DataInspectionFailed data_inspection_failed content_policy_violation FaqRuleBlocked CustomRoleBlocked"
    " IPInfringementSuspect ResponsibleAIPolicyViolation InvalidParameter invalid_parameter_error"
    " invalid_request_error BadRequest.TooLarge context_length_exceeded",
    PASSING: "RequestTimeOut InternalError internal_error SystemError ServiceUnavailable ModelServingError"
    " ModelUnavailable ModelServiceFailed AppProcessFailed RewriteFailed RetrievalFailed InvokePluginFailed"
    " InternalError.Algo InternalError.Timeout ResponseTimeout",
}
STATUSES = {401: KEY, 402: BILL, 403: MODEL, 404: MODEL, 408: PASSING, 429: THROTTLED}
"""For a code that the table lacks; any other 4xx is of this call, all else may pass."""
HINTS = {
    BILL: "pay the account, or raise its budget or quota; then force-analyze --failed",
    KEY: "DASHSCOPE_API_KEY is wrong, or of another region than DASHSCOPE_HTTP_BASE_URL",
    MODEL: "ANALYSIS_MODEL or ANALYSIS_APP_ID is not there or not allowed to this key",
}
MODE_HINT = "ANALYSIS_MODEL must name a model that answers in JSON mode, without thinking and without streaming"
_USED_UP = re.compile(
    r"free (?:allocated )?quota|free tier|(?:hour|day|week|month)(?:ly)? allocated quota exceeded|plan quota"
    r"|budget configured in budget management|预算额度已用尽|免费额度|overdue|account is in good standing|欠费",
    re.IGNORECASE,
)
"""With the code of a limit by the minute, or of a denied access: a quota that is gone, for good or until next week, or
a bill that is not paid."""
_WRONG_MODE = re.compile(
    r"enable_thinking|enable thinking can ?not|only support stream|does not support http call|json mode response is not"
    r"|incremental_output parameter|response_format.{0,40}not support|url error, please check url",
    re.IGNORECASE,
)
"""In a wrong parameter: the model thinks, streams, or is asked elsewhere; what we ask for is always the same."""
_GONE = frozenset(
    {"modelnotfound", "modelnotexist", "modelnotsupported", "unsupportedmodel"}
    | {"invalidparameter", "invalidparametererror", "invalidrequesterror"}
)
"""Codes, of the kind ``model``, of a model that is not there any more; the wrong parameter was its name then."""
_FORMAT = re.compile(r"(?!.*type 'json_object' is not)(?s:.*)(?:response_format|json_schema)", re.IGNORECASE)
"""Of the answer; a model without any JSON mode is another matter."""
_SAMPLING = re.compile(
    r"(?:unknown|unsupported|unrecognized|range of)\W.{0,40}?\b(temperature|max_tokens|seed)\b"
    r"|\b(temperature|max_tokens|seed)\b.{0,40}?(?:not support|unknown|unrecognized|out of range)",
    re.IGNORECASE,
)
"""In a wrong parameter: one that a setting of ours names."""
_NO_MODEL = re.compile(r"model\b.{0,80}?(?:not (?:found|exist)|is not supported)", re.IGNORECASE)


def _plain(code: str) -> str:
    return re.sub(r"[^a-z0-9]", "", code.lower())


_KINDS = {_plain(code): kind for kind, codes in CODES.items() for code in codes.split()}


def is_sure(error: ThrottledError) -> bool:
    """Whether the code is known to mean throttling, or there was none, as gateways do it."""
    return error.code == "HTTP429" or _plain(error.code).startswith("throttling") or _plain(error.code) in _KINDS


def is_gone(error: AccountError) -> bool:
    """Whether the model is not there (any more): another one would answer, with the same key."""
    return error.kind == MODEL and _plain(error.code) in _GONE


def refuses_format(error: Exception, *, known: bool) -> bool:
    """Whether the model does not know the form in which the answer is wanted. Words differ: where it is not ``known``
    to take it, any invalid parameter may be that one."""
    if not isinstance(error, DashScopeError) or error.status_code != 400:
        return False
    if "invalid" not in _plain(str(error.code or "")):
        return False
    return bool(_FORMAT.match(str(error.message or ""))) or not (known or isinstance(translate(error), AccountError))


def translate(error: Exception) -> ServiceError:
    """The typed error for whatever the SDK raised."""
    if not isinstance(error, DashScopeError):
        return PassingError(SERVICE, "completion", type(error).__name__)
    status = error.status_code or 0
    code = error.code if isinstance(error.code, str) else ""
    request_id = str(error.request_id or "")
    message = error.message if isinstance(error.message, str) else ""
    kind, shown, hint = _kind(status, code, message)
    shown = shown or (f"HTTP{status}" if status else type(error).__name__)
    if kind == THROTTLED:
        retry_after = _seconds(error.headers.get("retry-after"))
        return ThrottledError(SERVICE, "completion", shown, request_id=request_id, retry_after=retry_after)
    if kind in HINTS:
        return AccountError(SERVICE, "completion", shown, kind=kind, hint=hint, request_id=request_id)
    return (PermanentError if kind == CALL else PassingError)(SERVICE, "completion", shown, request_id=request_id)


def _kind(status: int, code: str, message: str) -> tuple[str, str, str]:
    """What a refusal means, the code to show, and what to do."""
    plain = _plain(code)
    if plain:
        other = CALL if 400 <= status < 500 else PASSING
        kind = THROTTLED if plain.startswith("throttling") else _KINDS.get(plain, STATUSES.get(status, other))
    else:
        # Without a code it is not DashScope that speaks, but something in between.
        kind = THROTTLED if status == 429 else PASSING
    if kind in (THROTTLED, MODEL) and _USED_UP.search(message):
        return BILL, f"{code}.UsedUp", HINTS[BILL]
    if kind == CALL and "invalid" in plain and _WRONG_MODE.search(message):
        return MODEL, f"{code}.Mode", MODE_HINT
    if kind == CALL and "invalid" in plain and (found := _SAMPLING.search(message)):
        name = (found[1] or found[2]).upper()
        return MODEL, f"{code}.Setting", f"the model does not take ANALYSIS_{name}: set another, or none"
    if kind == CALL and "invalid" in plain and _NO_MODEL.search(message):
        kind = MODEL
    return kind, code, HINTS.get(kind, "")


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
