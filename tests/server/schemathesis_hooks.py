"""How Schemathesis sends multipart/related: it knows neither the form of the body nor its boundary."""

import os

import schemathesis


@schemathesis.serializer("multipart/related")
def related(context, value):
    content = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.media_type == "multipart/related":
        case.headers["Content-Type"] = 'multipart/related; type="application/dicom"; boundary=b'


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """The key of a film that exists, in nine of ten requests that need one."""
    key = os.environ.get("SCHEMATHESIS_FILM_KEY")
    if key and path_parameters and "key" in path_parameters and hash(str(path_parameters["key"])) % 10:
        return {**path_parameters, "key": key}
    return path_parameters
