"""How Schemathesis sends multipart/related: it knows neither the form of the body nor its boundary."""

import schemathesis


@schemathesis.serializer("multipart/related")
def related(context, value):
    content = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.media_type == "multipart/related":
        case.headers["Content-Type"] = 'multipart/related; type="application/dicom"; boundary=b'
