"""What a request can fail with, and what each protocol answers then: one table for both."""

from dataclasses import dataclass

from repr_runtime import errors


class ServeError(errors.ReproError):
    """Base of the service's own errors."""


class RequestError(ServeError, ValueError):
    """The request is not what the protocol allows."""


class ModelNotFoundError(ServeError):
    """The service has no model of that name, or not in that version."""


class NotReadyError(ServeError):
    """The model is being loaded, or was unloaded, or the service is ending."""


class BodyTooLargeError(ServeError):
    """The request is longer than the service takes."""


class SlowClientError(ServeError):
    """The request did not arrive in time."""


class EncodingError(ServeError):
    """The body is compressed, or of a kind that is not taken here."""


class KeyRequiredError(ServeError):
    """The request has no API key, or a wrong one."""


class ControlForbiddenError(ServeError):
    """Models are loaded and unloaded only where the service was started for it."""


@dataclass(frozen=True)
class Status:
    """``http`` and ``grpc`` are the protocols' codes; ``kind`` is the word in the metrics.

    ``again``: seconds after which asking again may help; 0 where it will not.
    """

    http: int
    grpc: str
    kind: str
    again: int = 0


CANCELLED = Status(499, "CANCELLED", "cancelled")
INTERNAL = Status(500, "INTERNAL", "internal")
_STATUS: dict[type[Exception], Status] = {
    RequestError: Status(400, "INVALID_ARGUMENT", "request"),
    errors.InputError: Status(400, "INVALID_ARGUMENT", "input"),
    errors.PreprocessingMissingError: Status(400, "FAILED_PRECONDITION", "input"),
    errors.NonFiniteOutputError: Status(422, "OUT_OF_RANGE", "overflow"),
    errors.UnrunnableInputError: Status(422, "INVALID_ARGUMENT", "unrunnable"),
    KeyRequiredError: Status(401, "UNAUTHENTICATED", "key"),
    ControlForbiddenError: Status(403, "PERMISSION_DENIED", "control"),
    ModelNotFoundError: Status(404, "NOT_FOUND", "model"),
    errors.ArtifactError: Status(422, "FAILED_PRECONDITION", "artifact"),
    errors.SelfTestError: Status(422, "FAILED_PRECONDITION", "artifact"),
    SlowClientError: Status(408, "DEADLINE_EXCEEDED", "slow"),
    BodyTooLargeError: Status(413, "RESOURCE_EXHAUSTED", "size"),
    EncodingError: Status(415, "INVALID_ARGUMENT", "encoding"),
    errors.QueueFullError: Status(503, "RESOURCE_EXHAUSTED", "full", again=1),
    NotReadyError: Status(503, "UNAVAILABLE", "unready", again=1),
    errors.BatcherClosedError: Status(503, "UNAVAILABLE", "unready", again=1),
    errors.SessionClosedError: Status(503, "UNAVAILABLE", "unready", again=1),
    errors.DeadlineExceededError: Status(504, "DEADLINE_EXCEEDED", "deadline"),
}


def status_of(error: BaseException) -> Status:
    """What is answered to it; what is nobody's known mistake is the service's own."""
    return next((_STATUS[k] for k in type(error).__mro__ if k in _STATUS), INTERNAL)
