"""Errors in the form that an API server gives them."""

from __future__ import annotations

from tests.kubernetes.double.kinds import Json, Kind

PHRASES = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    410: "Gone",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

# The API server adds it to every list of schema violations of a custom resource.
UNCHECKED: Json = {
    "reason": "FieldValueInvalid",
    "message": "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
    "field": "<nil>",
}


class Refused(Exception):
    """A request that is answered with an error: a Status document, or plain text where the server gives no Status."""

    def __init__(self, code: int, body: Json | str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(str(body))
        self.code = code
        self.body = body
        self.headers = headers


def status(code: int, reason: str, message: str, details: Json | None = None) -> Json:
    """A Status document of a failure."""
    body: Json = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
    }
    if details is not None:
        body["details"] = details
    return {**body, "code": code}


def details_of(kind: Kind, name: str = "", *, noun: str = "") -> Json:
    """Which object a Status speaks of."""
    details: Json = {"name": name} if name else {}
    if kind.group:
        details["group"] = kind.group
    return {**details, "kind": noun or kind.plural}


def no_such_path() -> Refused:
    """A group or kind that is not served."""
    return Refused(404, "404 page not found\n")


def not_found(kind: Kind, name: str) -> Refused:
    """An object that is not there."""
    return Refused(404, status(404, "NotFound", f'{kind.qualified} "{name}" not found', details_of(kind, name)))


def exists(kind: Kind, name: str) -> Refused:
    """POST of a name that is taken."""
    message = f'{kind.qualified} "{name}" already exists'
    return Refused(409, status(409, "AlreadyExists", message, details_of(kind, name)))


def conflict(kind: Kind, name: str) -> Refused:
    """PUT with an old resourceVersion."""
    message = (
        f'Operation cannot be fulfilled on {kind.qualified} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return Refused(409, status(409, "Conflict", message, details_of(kind, name)))


def precondition(kind: Kind, name: str, what: str, asked: str, stored: str) -> Refused:
    """DELETE whose precondition (`UID`, `ResourceVersion`) does not hold."""
    happened = "deleted and then recreated" if what == "UID" else "modified"
    noun = kind.qualified_kind if kind.custom else kind.qualified
    message = (
        f'Operation cannot be fulfilled on {noun} "{name}": the {what} in the precondition ({asked}) '
        f"does not match the {what} in record ({stored}). The object might have been {happened}"
    )
    return Refused(409, status(409, "Conflict", message, details_of(kind, name, noun=kind.kind)))


def bad_request(message: str) -> Refused:
    """400."""
    return Refused(400, status(400, "BadRequest", message))


def undecodable(kind: Kind, what: str) -> Refused:
    """A body that is no object of the kind."""
    return bad_request(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {what}')


def invalid(kind: Kind, name: str, causes: list[Json], *, noun: str = "", unchecked: bool = False) -> Refused:
    """422 with its causes."""
    noun = noun or kind.qualified_kind
    causes = [*causes, UNCHECKED] if unchecked else causes
    texts = [f"{cause['field']}: {cause['message']}" for cause in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {**details_of(kind, name, noun=noun.partition(".")[0]), "causes": causes}
    return Refused(422, status(422, "Invalid", f'{noun} "{name}" is invalid: {text}', details))


def gone(token: str) -> Refused:
    """A list that cannot be continued as it was; `token` goes on with what is there now."""
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    return Refused(410, {**status(410, "Expired", message), "metadata": {"continue": token}})


def expired(version: int, oldest: int) -> Json:
    """The Status in a watch from a version that is forgotten."""
    return status(410, "Expired", f"too old resource version: {version} ({oldest})")
