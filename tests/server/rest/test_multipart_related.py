import pytest
from hypothesis import given
from hypothesis import strategies as st

from kneegrade.server.rest.multipart_related import (
    MAX_HEADER_BYTES,
    MultipartError,
    MultipartParts,
    PartData,
    PartEnd,
    PartStart,
    related_boundary,
)

BOUNDARY = "b-1"


def body(parts, boundary=BOUNDARY):
    """A body of (media type, content) pairs."""
    head = b"--" + boundary.encode()
    return b"".join(
        head + (f"\r\nContent-Type: {kind}" if kind else "").encode() + b"\r\n\r\n" + content + b"\r\n"
        for kind, content in parts
    ) + head + b"--\r\n"  # fmt: skip


def parsed(chunks, boundary=BOUNDARY):
    """The (media type, content) pairs of a body that arrives in these pieces."""
    parser, found, open_part = MultipartParts(boundary), [], None
    for chunk in chunks:
        for event in parser.feed(chunk):
            if isinstance(event, PartStart):
                assert open_part is None
                open_part = (event.media_type, b"")
            elif isinstance(event, PartData):
                open_part = (open_part[0], open_part[1] + event.content)
            else:
                assert isinstance(event, PartEnd)
                found.append(open_part)
                open_part = None
    parser.close()
    return found


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["application/dicom", "text/plain", ""]),
            st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--b-1", b"\r\n--b-", b"b-1", b"\r\n", b"x", b"\0"])),
        ),
        min_size=1, max_size=3,
    ),
    st.data(),
)  # fmt: skip
def test_parts_come_back_however_the_body_is_cut(parts, data):
    wanted = [(kind, b"".join(content)) for kind, content in parts]
    whole = body(wanted)
    if any(b"\r\n--b-1" in content or content.startswith(b"--b-1") for _, content in wanted):
        return  # a sender must not choose a boundary that its content has
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert parsed(chunks) == wanted


def test_preamble_parameters_and_epilogue_are_ignored():
    text = b"hello\r\n--b-1 \t\r\ncontent-TYPE: Application/DICOM; x=y\r\nX: y\r\n\r\nab\r\n--b-1--\r\nrest --b-1"
    assert parsed([text]) == [("application/dicom", b"ab")]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"--b-1", b"--b-1\r\n\r\nabc", b"--b-1\r\n\r\nabc\r\n--b-1", b"--b-1x\r\n\r\nabc\r\n--b-1--",
        b"x" * (MAX_HEADER_BYTES * 2), b"--b-1\r\nA: " + b"x" * MAX_HEADER_BYTES + b"\r\n\r\nabc\r\n--b-1--",
        b"--b-1" + b" " * (2 * MAX_HEADER_BYTES),
    ],
)  # fmt: skip
def test_a_malformed_body_is_refused(text):
    with pytest.raises(MultipartError):
        parsed([text[:7], text[7:]])


def test_a_long_part_is_passed_on_while_it_arrives():
    parser = MultipartParts(BOUNDARY)
    list(parser.feed(b"--b-1\r\n\r\n"))
    for _ in range(64):
        assert sum(len(event.content) for event in parser.feed(b"\r\n--b-" * 10_000)) >= 59_990


@pytest.mark.parametrize(
    ("header", "outcome"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', ("abc", "application/dicom")),
        ('Multipart/Related; boundary="a b\'c"', ("a b'c", "")),
        ("multipart/form-data; boundary=abc", None), ("multipart/related", None),
        ("multipart/related; boundary=", None), (f"multipart/related; boundary={'x' * 71}", None),
        ('multipart/related; boundary="a\\"b"', None), ("multipart/related; boundary=\x80", None),
    ],
)  # fmt: skip
def test_the_boundary_of_a_content_type(header, outcome):
    if outcome is None:
        with pytest.raises(MultipartError):
            related_boundary(header)
    else:
        assert related_boundary(header) == outcome
